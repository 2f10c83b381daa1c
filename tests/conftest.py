import os
import re
import signal

# Two processes of tests share the cores, and models this small gain nothing from more threads. Set before torch loads,
# so that the processes which tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# What a shell starts in the background ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_thread():
    """Models this small gain nothing from more, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What takes longest begins first, so that no process of tests has much left when the others are through.
LONGEST = (
    "test_docs.py",
    "training/test_guards.py",
    "training/test_validation.py",
    "test_cli.py",
    "training/test_checkpoint.py",
)


def pytest_collection_modifyitems(config, items):
    """Only where several processes share the tests."""
    if hasattr(config, "workerinput"):
        order = {f"tests/{name}": number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process runs all tests of a file, which share its fixtures; of the documents, those of one document."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            document = re.match(r"test_(?:commands|python)\[(\w+)-", test)
            return f"{file}::{document[1]}" if document else file

    config.option.loadscopereorder = False
    return ByFile(config, log)
