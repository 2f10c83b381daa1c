"""What Ctrl-C and SIGTERM do to a run: it saves what it has and says so.

A terminal sends Ctrl-C (SIGINT) to a command and to all processes that help it, a scheduler sends SIGTERM to every
process of a job. Helpers leave both to the run; the run takes them at the end of a step.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES: dict[int, int] = {signal.SIGTERM: 3, signal.SIGINT: 130}
NAMES: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
# torchrun may pass one Ctrl-C on twice; a person's second one comes later.
SECOND_AFTER = 1.0


class InterruptedRunError(BaseException):
    """A signal ended what was being done; no `Exception`, so that nothing on the way takes it for an error.

    Args:
        number: of the signal.
        again: whether it came a second time, before the first could be obeyed.
    """

    def __init__(self, number: int, *, again: bool = False):
        super().__init__(NAMES[number])
        self.number, self.again = number, again


class StopRequest:
    """Whether a signal has asked to stop: its number, 0 for none. A second Ctrl-C does not wait.

    Args:
        told: what Ctrl-C says at once, since the step under way may take long.
    """

    def __init__(self, told: str = ""):
        self.told = told
        self.number = 0
        self._arrived = 0.0

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and number == signal.SIGINT and now - self._arrived > SECOND_AFTER:
            raise InterruptedRunError(number, again=True)
        if self.number:
            return
        self.number, self._arrived = number, now
        if number == signal.SIGINT and self.told:
            os.write(2, f"\n{self.told}\n".encode())  # not print: it may be in the middle of printing


@contextmanager
def stop_requests(told: str = "") -> Iterator[StopRequest]:
    """Inside, the first SIGTERM or Ctrl-C is noted, for the loop to look at."""
    request = StopRequest(told)
    with _handling(request):
        yield request


@contextmanager
def interrupts_at_once() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C raise `InterruptedRunError`, where nothing has to be saved."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise InterruptedRunError(number)

    with _handling(interrupt):
        yield


@contextmanager
def _handling(handler: "StopRequest | signal._HANDLER") -> Iterator[None]:
    # Only the main thread may; and who started the run with a signal ignored (nohup, a shell's `&`) wants it ignored.
    numbers = EXIT_CODES if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
