"""What a command shows while it works: bars in a terminal, elsewhere a line every ten seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class _Phase:
    """One phase: what is done of what, and since when that is counted."""

    began: float
    done_before: int
    done: int
    total: int

    def in_words(self, name: str, now: float) -> str:
        passed = now - self.began
        if self.done <= self.done_before:
            return f"{name}: {_in_words(passed)} so far"
        known = f" of {self.total}" if self.total else ""
        left = passed / (self.done - self.done_before) * (self.total - self.done)
        return f"{name}: {self.done}{known}" + (f", about {_in_words(left)} left" if left > 0 else "")


def _in_words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class ProgressBar:
    """Phases of a piece of work with the time left. Use it as a context, and call it as (phase, done, of).

    In a terminal phases are bars. Elsewhere a line is written when `every` seconds have passed since the last one, also
    while no call comes; work that takes less is silent. Safe for threads.

    Args:
        stream: where to; None for the standard error.
        clock: seconds, as `time.monotonic`.
        every: seconds between lines.
    """

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = _SECONDS_BETWEEN_LINES,
    ):
        self.every = every
        self._stream, self._clock = stream or sys.stderr, clock
        self._phases: dict[str, _Phase] = {}
        self._newest = ""
        self._bars = None
        self._tasks = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._spoke = clock()

    def __enter__(self) -> "ProgressBar":
        self._spoke = self._clock()
        if self._stream.isatty():
            self._bars = _bars(self._stream)
            self._bars.start()
        else:
            threading.Thread(target=self._tick_until_the_end, daemon=True).start()
        return self

    def __call__(self, phase: str, done: int, total: int) -> None:
        with self._lock:
            state = self._phases.setdefault(phase, _Phase(self._clock(), done, done, total))
            state.done, state.total = done, total
            self._newest = phase
            if self._bars is not None:
                if phase not in self._tasks:
                    self._tasks[phase] = self._bars.add_task(phase, total=total or None)
                self._bars.update(self._tasks[phase], completed=done, total=total or None)
        self.tick()

    @contextlib.contextmanager
    def waiting(self, phase: str) -> Iterator[None]:
        """Around work that cannot say how far it is: outside a terminal this is said at once."""
        self(phase, 0, 1)
        if self._bars is None:
            self._write(f"{phase} ...")
        try:
            yield
        finally:
            self(phase, 1, 1)

    def tick(self) -> None:
        """Writes a line if it is time for one."""
        with self._lock:
            phase, now = self._phases.get(self._newest), self._clock()
            if self._bars is not None or phase is None or now - self._spoke < self.every:
                return
            if not phase.total or phase.done < phase.total:
                self._write(phase.in_words(self._newest, now))

    def _write(self, line: str) -> None:
        self._spoke = self._clock()
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            print(line, file=self._stream, flush=True)

    def _tick_until_the_end(self) -> None:
        while not self._ended.wait(self.every / 10):
            self.tick()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bars is not None:
            self._bars.stop()


def _bars(stream: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=stream))
