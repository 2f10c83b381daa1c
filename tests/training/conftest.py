import pytest

from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def everything_on_one_thread(one_thread):
    pass


@pytest.fixture(scope="session")
def tiny_init(tmp_path_factory):
    """Folder of a tiny pipeline of the real classes, where runs begin."""
    folder = tmp_path_factory.mktemp("tiny") / "init"
    tiny.pipeline(native_area=64 * 64).save_pretrained(folder)
    return folder
