"""Ceilings of the engine's benchmarks: what an editor can reach that knows only the drawings of the train split.

The test split asks for drawings that no training shows, so that no editor can make all of its additions and
replacements as they are in the targets. The control `known-drawing` is run and scored once for each item of a set, in
the set's own folder; reports read it there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..synth.engine import find_split
from ..system.workers import Progress
from .aggregate import TaskScores, aggregate_exact
from .benchmark import Benchmark, Item, find_benchmark
from .editors import KNOWN_DRAWING, ControlEditor
from .exact import ExactConfig, score_run
from .layouts import read_items
from .predict import predict
from .records import EXACT, MANIFEST, RUN, ExactScores, RunInfo, read_records, read_run

CEILING_NOTE = (
    f"Ceiling: the control {KNOWN_DRAWING}, a perfect editor that knows only the drawings of the train split. The "
    "benchmark asks for others."
)
NO_CEILING_NOTE = "The ceilings of this set are not known yet: 'sama eval exact RUN' on one of these runs makes them."


def has_ceilings(benchmark: Benchmark | None) -> bool:
    """Whether a benchmark asks for drawings that no training shows."""
    return (
        benchmark is not None and bool(benchmark.engine) and find_split(benchmark.engine["split"]).drawings != "train"
    )


def score_ceilings(run: Path, config: ExactConfig, progress: Progress = lambda *_: None) -> list[TaskScores]:
    """The ceilings of a run's items, made if they are not there; empty for a benchmark without any.

    Raises:
        UserError: for a set that is not there, is of another version of the engine, or cannot be written to.
    """
    info, items = read_run(run)
    benchmark = None if info.benchmark == MANIFEST else find_benchmark(info.benchmark)
    if benchmark is None or not has_ceilings(benchmark):
        return []
    folder = _folder(info)
    before = read_run(folder)[1] if (folder / RUN).is_file() else []
    wanted = {item.id for item in [*items, *before]}
    chosen = [item for item in read_items(benchmark, Path(info.data)) if item.id in wanted]
    editor = ControlEditor(control=KNOWN_DRAWING, items=chosen)
    of_control = RunInfo(benchmark=info.benchmark, version=info.version, data=info.data, editor=editor.name)
    predict(of_control, chosen, editor, folder, progress=progress)
    score_run(folder, replace(config, semantic_encoder=None), progress)
    return read_ceilings(info, items)


def read_ceilings(info: RunInfo, items: Sequence[Item]) -> list[TaskScores]:
    """Of these items, as `aggregate_exact` has them; empty if they were not all scored."""
    folder = _folder(info)
    if not (folder / RUN).is_file() or read_run(folder)[0].version != info.version:
        return []
    records = {one.item: one for one in read_records(folder / EXACT, ExactScores) if one.status == "ok"}
    if not all(item.id in records for item in items):
        return []
    return aggregate_exact(items, [records[item.id] for item in items])


def _folder(info: RunInfo) -> Path:
    return Path(info.data) / KNOWN_DRAWING


def summary(ceilings: Sequence[TaskScores]) -> list[str]:
    """For people: the families in which not every edit can succeed."""
    means = {one.title: one.only("success").intervals()[0].value for one in ceilings if "success" in one.columns}
    below = ", ".join(f"{title} {mean:.3f}" for title, mean in means.items() if mean < 1)
    return [f"ceilings of success, with the drawings of the train split alone: {below}"] if below else []
