"""Runs with made-up scores: what `sama eval predict`, `judge` and `exact` would leave, without any of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sama_video.evaluation.benchmark import Item, find_benchmark
from sama_video.evaluation.records import (
    EXACT,
    PREDICTIONS,
    ExactScores,
    Judgment,
    Prediction,
    RunInfo,
    write_run,
)


def make_items(benchmark: str, per_task: int, folder: Path = Path(), sources: int | None = None) -> list[Item]:
    """Items of every task; `sources` videos are shared in turn, by default one an item."""
    return [
        Item(
            id=f"{task.key}/{index:04d}",
            task=task.key,
            instruction=f"Change <thing> & {index}",
            source=folder / f"source-{(number * per_task + index) % (sources or 10**9)}.mp4",
            file_name=f"{index:04d}.mp4",
        )
        for number, task in enumerate(find_benchmark(benchmark).tasks)
        for index in range(per_task)
    ]


def dimension_keys(benchmark: str, task: str) -> list[str]:
    return [key for block in find_benchmark(benchmark).task(task).blocks for key in block.dimensions]


def judgment(
    benchmark: str, item: Item, scores: float | Sequence[float], judge: str = "j", repeat: int = 0
) -> Judgment:
    """An answer with these scores in the order of the dimensions, or one score for all of them."""
    keys = dimension_keys(benchmark, item.task)
    values = [scores] * len(keys) if isinstance(scores, (int, float)) else scores
    given = dict(zip(keys, map(float, values), strict=True))
    return Judgment(item=item.id, judge=judge, repeat=repeat, status="ok", scores=given)


def without_scores(item: Item, status: str, judge: str = "j", **fields: str) -> Judgment:
    return Judgment(item=item.id, judge=judge, repeat=0, status=status, **fields)


def write_made_up_run(
    path: Path,
    benchmark: str,
    editor: str,
    items: Sequence[Item],
    judgments: Mapping[str, Sequence[Judgment]] | None = None,
    exact: Sequence[ExactScores] = (),
    edits: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
    data: str = "",
) -> Path:
    """A run's folder.

    Args:
        judgments: by judge.
        data: folder of the set.
        edits: item -> file of its edit, relative to the folder; items without one count as failed.
    """
    version = find_benchmark(benchmark).version
    write_run(
        path,
        RunInfo(benchmark=benchmark, version=version, data=data, editor=editor, settings=dict(settings or {})),
        items,
    )
    predictions = [
        Prediction(item=item.id, status="ok", file=edits[item.id])
        if edits and item.id in edits
        else Prediction(item=item.id, status="failed", reason="made up")
        for item in items
    ]
    _write(path / PREDICTIONS, predictions)
    for judge, records in (judgments or {}).items():
        _write(path / f"judgments-{judge.replace('/', '-')}.jsonl", records)
    if exact:
        _write(path / EXACT, exact)
    return path


def _write(path: Path, records: Sequence) -> None:
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
