import pytest
import torch

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small gain nothing from more, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_init(tmp_path_factory):
    """Folder of a tiny pipeline of the real classes, where runs begin."""
    folder = tmp_path_factory.mktemp("tiny") / "init"
    tiny.pipeline(native_area=64 * 64).save_pretrained(folder)
    return folder
