"""Threads and processes that help: work in many threads; processes that end with the one they help."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

# Called as (phase, done, of).
Progress = Callable[[str, int, int], None]
Task = TypeVar("Task")
Result = TypeVar("Result")

# Not forked: libraries that run threads do not survive it.
SPAWN = multiprocessing.get_context("spawn")


def silent(_phase: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def in_threads(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    threads: int,
    stop: Callable[[], None] = lambda: None,
    *,
    in_order: bool = True,
) -> Iterator[Result]:
    """`work` on every task. Tasks are taken as results leave: a manifest of millions of rows is never queued whole.

    Args:
        stop: called if the iteration ends early, before threads are awaited; what has not begun is dropped.
        in_order: results come in their tasks' order, else as they are ready.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[Future[Result]] = collections.deque()
        pending = iter(tasks)
        try:
            waiting.extend(pool.submit(work, task) for task in itertools.islice(pending, 4 * threads))
            while waiting:
                ready = waiting[0] if in_order else next(iter(wait(waiting, return_when=FIRST_COMPLETED).done))
                waiting.remove(ready)
                yield ready.result()
                waiting.extend(pool.submit(work, task) for task in itertools.islice(pending, 1))
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class WorkerPool(ProcessPoolExecutor):
    """Left by an error or Ctrl-C, it drops what has not begun."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)


def worker_pool(num_workers: int) -> WorkerPool:
    """Spawned processes, which import what they need themselves."""
    return WorkerPool(num_workers, mp_context=SPAWN, initializer=end_with_parent)


def in_a_process(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """`work` on every task, in their order and two ahead, in one spawned process."""
    with worker_pool(1) as pool:
        pending = iter(tasks)
        waiting = collections.deque(pool.submit(work, task) for task in itertools.islice(pending, 2))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, task) for task in itertools.islice(pending, 1))


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
