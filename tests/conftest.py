import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Models this small gain nothing from more, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
