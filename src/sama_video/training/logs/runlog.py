"""What a run tells: every step as a line of metrics.jsonl, curves in its trackers, a bar with the time left.

metrics.jsonl holds a JSON object a line: `{"step": 12, "loss": ..., ...}` for an optimizer step, and
`{"step": 500, "validation": {family: {metric: average}}}` for a validation. A step stands there once, also in a run
that was resumed.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...system.errors import UserError
from ...system.files import written_aside
from ...system.platforms import peak_memory
from ..config import LoggingConfig
from .trackers import open_trackers, show_files

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from rich.progress import Progress

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Of one optimizer step over all processes; losses are averages over its samples.

    Args:
        semantic_loss: None without Semantic Anchoring.
        flow_by_sigma: averages of the flow loss over fifths of sigma, NaN for an empty fifth.
        waited: seconds spent waiting for data.
    """

    loss: float
    flow_loss: float
    semantic_loss: float | None
    flow_by_sigma: list[float]
    gradient_norm: float
    learning_rate: float
    num_samples: int
    num_tokens: int
    seconds: float
    waited: float


class RunLog:
    """The record of a run in its folder. One process of a run writes; in the others every call does nothing.

    Args:
        out: folder of the run.
        step: steps that are done; what the file says of later ones is taken out.
        num_steps: of the whole run.
        log_every: steps between lines on the console, where that is no terminal and shows no bar.
        writes: whether this is the process that writes.
        unvalidated: whether the validation of `step` is still to come.
        tracking: where the curves are shown.
        settings: of the run, for its trackers.

    Raises:
        UserError: for a tracker that cannot start.
    """

    def __init__(
        self,
        out: Path,
        *,
        step: int,
        num_steps: int,
        log_every: int,
        writes: bool = True,
        unvalidated: bool = False,
        tracking: LoggingConfig | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.file = out / METRICS
        self.first_step, self.num_steps, self.log_every, self.writes = step, num_steps, log_every, writes
        self.seconds = 0.0
        self.steps_seen = 0
        self.bar, self.trackers = None, []
        if writes:
            forget_after(self.file, step, unvalidated=unvalidated)
            self.trackers = open_trackers(tracking or LoggingConfig(), out, step=step, settings=settings)
            self.bar = _bar(step, num_steps) if sys.stderr.isatty() else None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        self._tell(lambda tracker: tracker.finish())

    def step(self, step: int, metrics: StepMetrics) -> None:
        """After optimizer step `step` (from 1), with its metrics."""
        if not self.writes:
            return
        speed = metrics.num_tokens / metrics.seconds
        values = {**vars(metrics), "memory_gib": memory_gib(), "tokens_per_second": speed}
        append_record(self.file, {"step": step, **values})
        self._draw(step, values)
        self.seconds += values["seconds"]
        self.steps_seen += 1
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step, description=_numbers(values))
        elif step % self.log_every == 0 or step == self.num_steps:
            logger.info("%s", self._line(step, values))

    def validation(self, step: int, families: dict[str, dict[str, float | None]], folder: Path | None = None) -> None:
        """Averages by family, as `validation.ValidationResult.families` has them; in `folder` the pictures."""
        if not self.writes:
            return
        append_record(self.file, {"step": step, "validation": families})
        self._draw(step, {"validation": families})
        if folder is not None:
            self._tell(lambda tracker: show_files(tracker, "validation", folder, step))
        parts = [f"{name} {value:.2f}" for name, value in families.get("all", {}).items() if value is not None]
        self.message(f"step {step} validation: {', '.join(parts)}")

    def message(self, text: str) -> None:
        """A line on the console, above the bar if there is one."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        else:
            logger.info("%s", text)

    def _draw(self, step: int, values: dict[str, Any]) -> None:
        numbers = dict(numbers_of(values))
        self._tell(lambda tracker: tracker.log(numbers, step=step))

    def _tell(self, tell: Callable[["GeneralTracker"], Any]) -> None:
        """Every tracker something; one that fails is left out from then on: no training ends for its curves."""
        for tracker in list(self.trackers):
            try:
                tell(tracker)
            except Exception as error:  # each library has its own
                self.trackers.remove(tracker)
                self.message(f"{tracker.name} failed and gets no more curves ({error}); {METRICS} has them all")

    def _line(self, step: int, values: dict[str, Any]) -> str:
        left = (self.num_steps - step) * self.seconds / self.steps_seen
        return (
            f"step {step}/{self.num_steps} {_numbers(values)} rate {values['learning_rate']:.2e} "
            f"waited {100 * values['waited'] / values['seconds']:.0f}% {timedelta(seconds=round(left))} left"
        )


def _numbers(values: dict[str, Any]) -> str:
    semantic = "" if values["semantic_loss"] is None else f"semantic {values['semantic_loss']:.4f} "
    return (
        f"loss {values['loss']:.4f} {semantic}norm {values['gradient_norm']:.2f} "
        f"{values['tokens_per_second']:,.0f} tokens/s {values['memory_gib']:.1f} GiB"
    )


def _bar(step: int, num_steps: int) -> "Progress":
    """Steps done, the time left, the newest numbers."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task("", total=num_steps, completed=step)
    bar.start()
    return bar


def memory_gib() -> float:
    """The most that this process has held: on its accelerator, without one in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory() / 2**30


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not know."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def numbers_of(record: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a record by their paths, such as `flow_by_sigma/3` or `validation/all/psnr`."""
    if isinstance(record, dict | list):
        parts = record.items() if isinstance(record, dict) else enumerate(record)
        for name, part in parts:
            yield from numbers_of(part, f"{path}/{name}" if path else str(name))
    elif isinstance(record, int | float) and math.isfinite(record):
        yield path, record


def append_record(file: Path, record: dict[str, Any]) -> None:
    """A line of JSON at the end of a file. Raises UserError for a full disk."""
    try:
        with open(file, "a") as stream:
            stream.write(json.dumps(finite(record)) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {file} ({error.strerror}); put that right and use `resume`") from error


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a line that a kill cut short is left out."""
    records = []
    for line in file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def forget_after(file: Path, step: int, *, unvalidated: bool = False) -> None:
    """Keep the records up to `step`, without its validation if that is to come: a resumed run writes the rest again."""
    if not file.exists():
        return
    kept = [record for record in read_metrics(file) if record["step"] <= step]
    kept = [one for one in kept if not (unvalidated and one["step"] == step and "validation" in one)]
    with written_aside(file) as aside:
        aside.write_text("".join(json.dumps(record) + "\n" for record in kept))
