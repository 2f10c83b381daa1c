"""Judgments of 10,000 items -> tables with 2,000 bootstrap draws, against plain Python over items and draws.

The baseline makes a fiftieth of the draws, or it would take minutes.
"""

import random
from pathlib import Path
from statistics import fmean

import numpy as np
from common import compare, report, setting

from sama_video.evaluation.aggregate import aggregate, overall_scores
from sama_video.evaluation.benchmark import Item, find_benchmark
from sama_video.evaluation.records import Judgment
from sama_video.evaluation.statistics import DRAWS

ITEMS, SOURCES, SHARE = 10_000, 2_500, 50
BENCHMARK = find_benchmark("reco_bench")


def make_records() -> tuple[list[Item], list[Judgment]]:
    rng = np.random.default_rng(0)
    keys = [key for block in BENCHMARK.tasks[0].blocks for key in block.dimensions]
    items, judgments = [], []
    for index, scores in enumerate(rng.integers(1, 11, (ITEMS, len(keys))).tolist()):
        task, source = BENCHMARK.tasks[index % len(BENCHMARK.tasks)].key, Path(f"{index % SOURCES}.mp4")
        items.append(Item(id=str(index), task=task, instruction="", source=source, file_name=f"{index}.mp4"))
        answer = dict(zip(keys, map(float, scores), strict=True))
        judgments.append(Judgment(item=str(index), judge="j", repeat=0, status="ok", scores=answer))
    return items, judgments


def ours(items: list[Item], judgments: list[Judgment]) -> list[float]:
    tasks = aggregate(BENCHMARK, items, judgments)
    return [task.intervals()[-1].value for task in [*tasks, overall_scores(tasks)]]


def plain(items: list[Item], judgments: list[Judgment]) -> list[float]:
    """The same 13 columns of four tasks and one overall, with a fiftieth of the draws."""
    rows = {one.item: plain_row(one.scores or {}) for one in judgments}
    groups = [[item for item in items if item.task == task.key] for task in BENCHMARK.tasks]
    means = []
    for group in [*groups, items]:
        columns = range(12, 13) if group is items else range(13)
        clusters: dict[str, list[list[float]]] = {}
        for item in group:
            clusters.setdefault(item.cluster, []).append(rows[item.id])
        means.append(fmean(rows[item.id][-1] for item in group))
        names = list(clusters)
        for _ in range(DRAWS // SHARE):
            drawn = [row for name in random.choices(names, k=len(names)) for row in clusters[name]]
            for column in columns:
                fmean(row[column] for row in drawn)
    return means


def plain_row(scores: dict[str, float]) -> list[float]:
    values = list(scores.values())
    blocks = [(a * b * c) ** (1 / 3) for a, b, c in (values[0:3], values[3:6], values[6:9])]
    return [*values, *blocks, fmean(blocks)]


def main() -> None:
    items, judgments = make_records()
    print(f"{setting()}, numpy {np.__version__}; {ITEMS} items of {SOURCES} sources, {DRAWS} draws")
    assert np.allclose(ours(items, judgments), plain(items, judgments))
    contenders = (lambda: ours(items, judgments), lambda: plain(items, judgments))
    report(f"aggregate, against 1/{SHARE} of the draws", *compare(*contenders, rounds=3))


if __name__ == "__main__":
    main()
