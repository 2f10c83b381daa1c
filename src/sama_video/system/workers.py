"""Processes that help another one: they end with it, also if it is killed."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType

# Not forked: libraries that run threads do not survive it.
SPAWN = multiprocessing.get_context("spawn")


class WorkerPool(ProcessPoolExecutor):
    """Left by an error or Ctrl-C, it drops what has not begun."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)


def worker_pool(num_workers: int) -> WorkerPool:
    """Spawned processes, which import what they need themselves."""
    return WorkerPool(num_workers, mp_context=SPAWN, initializer=end_with_parent)


def end_with_parent() -> None:
    """In a process that another one started: nobody will take what it does once its parent is gone.

    Ctrl-C reaches every process of a terminal; what it means is the parent's to decide.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
