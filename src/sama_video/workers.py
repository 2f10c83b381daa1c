"""Processes that help another one: they end with it, also if it is killed."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

# Not forked: libraries that run threads do not survive it.
SPAWN = multiprocessing.get_context("spawn")


def worker_pool(num_workers: int) -> ProcessPoolExecutor:
    """Spawned processes, which import what they need again."""
    return ProcessPoolExecutor(num_workers, mp_context=SPAWN, initializer=end_with_parent)


def end_with_parent() -> None:
    """In a spawned process: nobody will take what it does once its parent is gone, which also decides on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process of a command
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
