"""Judgments -> scores of items -> means with intervals, by the benchmark's rule or exactly as its authors' script does.

A rule only decides what an item's row holds; a mean is then the same plain mean over rows for every benchmark.

Shape legend: N items of a task, D dimensions asked, K columns printed: dimensions, blocks, and S over several blocks.
Scores are float64 `[N, K]`; NaN marks an item that a column's mean leaves out.
"""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..system.errors import UserError
from .authors import compat_scores
from .benchmark import Benchmark, Block, Item, Task
from .records import ExactScores, Judgment
from .statistics import Interval, mean_intervals


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Items with scores, without a video, and without scores for any other reason."""

    ok: int
    missing: int
    failed: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(ok=self.ok + other.ok, missing=self.missing + other.missing, failed=self.failed + other.failed)


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """The items of one task and their scores.

    Args:
        columns: K names; the last is the headline.
        items, clusters: N ids, and N names of what an item is an edit of.
        scores: `[N, K]`.
    """

    task: str
    title: str
    columns: tuple[str, ...]
    items: tuple[str, ...]
    clusters: tuple[str, ...]
    scores: np.ndarray
    counts: Counts

    @property
    def headline(self) -> np.ndarray:
        """`[N]`, of the last column."""
        return self.scores[:, -1]

    def only(self, column: str) -> "TaskScores":
        """The same items with one column."""
        return replace(self, columns=(column,), scores=self.scores[:, [self.columns.index(column)]])

    def intervals(self) -> list[Interval]:
        """Mean and interval of each column."""
        return mean_intervals(self.scores, self.clusters)


def rule_of(benchmark: Benchmark, compat: bool = False) -> str:
    """The sentence that stands under a table: what became of items without scores.

    Raises:
        UserError: for `compat` where the authors' script is not known.
    """
    if not compat:
        return (
            f"Means are over all items: one without a video (missing) or without an answer (failed) counts "
            f"{benchmark.failed:g} in every dimension. Repeats are averaged first, item by item."
        )
    if not benchmark.compat:
        raise UserError(f"the script of {benchmark.title}'s authors is not known; leave out `compat`")
    return benchmark.compat


def aggregate(
    benchmark: Benchmark,
    items: Sequence[Item],
    judgments: Sequence[Judgment],
    *,
    compat: Mapping[str, str] | None = None,
) -> list[TaskScores]:
    """Scores of every task that has items, in the benchmark's order.

    Args:
        judgments: of one judge, any number of repeats an item.
        compat: follow the authors' script, which reads these texts of answers, by their keys; None for the
            benchmark's own rule.

    Raises:
        UserError: for judgments of several judges; with `compat`, where the authors' script is not known or would stop.
    """
    if len(judges := {one.judge for one in judgments}) > 1:
        raise UserError(f"a table cannot mix the judges {', '.join(sorted(judges))}; choose one with `judge`")
    by_item: dict[str, list[Judgment]] = collections.defaultdict(list)
    for one in judgments:
        by_item[one.item].append(one)
    tasks = [(task, [item for item in items if item.task == task.key]) for task in benchmark.tasks]
    return [_task_scores(benchmark, task, members, by_item, compat) for task, members in tasks if members]


def _task_scores(
    benchmark: Benchmark,
    task: Task,
    items: list[Item],
    by_item: dict[str, list[Judgment]],
    compat: Mapping[str, str] | None,
) -> TaskScores:
    statuses = [_status(by_item.get(item.id, ())) for item in items]
    if compat is None:
        answered = _dimension_means(task, items, by_item)
        scores = _with_blocks(task, np.where(np.isnan(answered), benchmark.failed, answered))
    else:
        rule_of(benchmark, compat=True)
        scores = np.stack([compat_scores(benchmark, task, by_item.get(item.id, ()), compat) for item in items])
    return _scores_of(task.key, task.title, task.columns, items, scores, statuses)


def _scores_of(
    task: str, title: str, columns: tuple[str, ...], items: Sequence[Item], scores: np.ndarray, statuses: list[str]
) -> TaskScores:
    return TaskScores(
        task=task,
        title=title,
        columns=columns,
        items=tuple(item.id for item in items),
        clusters=tuple(item.cluster for item in items),
        scores=scores,
        counts=Counts(**{name: statuses.count(name) for name in ("ok", "missing", "failed")}),
    )


def _dimension_means(task: Task, items: list[Item], by_item: dict[str, list[Judgment]]) -> np.ndarray:
    """Mean over an item's answered repeats, `[N, D]`; NaN without any."""
    means = np.full((len(items), len(task.dimensions)), np.nan)
    for index, item in enumerate(items):
        scored = [one.scores for one in by_item.get(item.id, ()) if one.scores is not None]
        repeats = [[scores[dimension] for dimension in task.dimensions] for scores in scored]
        if repeats:
            means[index] = np.mean(repeats, axis=0) if len(repeats) > 1 else repeats[0]
    return means


def _status(judgments: Sequence[Judgment]) -> str:
    statuses = {one.status for one in judgments}
    if "ok" in statuses:
        return "ok"
    return "missing" if "missing" in statuses else "failed"


def _with_blocks(task: Task, dimensions: np.ndarray) -> np.ndarray:
    """`[N, D]` -> `[N, K]`."""
    blocks, start = [], 0
    for block in task.blocks:
        blocks.append(_block_means(block, dimensions[:, start : start + len(block.dimensions)]))
        start += len(block.dimensions)
    columns = np.stack(blocks, axis=1)
    overall = [columns.mean(axis=1, keepdims=True)] if len(blocks) > 1 else []
    return np.concatenate([dimensions, columns, *overall], axis=1)


def _block_means(block: Block, dimensions: np.ndarray) -> np.ndarray:
    """`[N, D]` -> `[N]`."""
    if block.mean == "geometric":
        means = dimensions.prod(axis=1) ** (1 / dimensions.shape[1])
    else:
        means = dimensions.mean(axis=1)
    if block.decimals is None:
        return means
    # NumPy rounds the scaled number, Python the number itself; the authors' scripts are Python.
    return np.array([round(float(mean), block.decimals) for mean in means])


def overall_scores(tasks: Sequence[TaskScores]) -> TaskScores:
    """The headline of all items as one column: its mean weighs a task by its items."""
    return TaskScores(
        task="overall",
        title="Overall",
        columns=("Overall",),
        items=tuple(item for task in tasks for item in task.items),
        clusters=tuple(cluster for task in tasks for cluster in task.clusters),
        scores=np.concatenate([task.headline for task in tasks])[:, None],
        counts=sum((task.counts for task in tasks), Counts(ok=0, missing=0, failed=0)),
    )


EXACT_RULE = (
    "An item without a video (missing), or that cannot be compared (failed), counts 0 in success and leaves the other "
    "means, as does an item that a metric does not apply to."
)


def aggregate_exact(items: Sequence[Item], records: Sequence[ExactScores]) -> list[TaskScores]:
    """Scores of every family of edits, and of all together under "all"; the later record of an item counts."""
    by_item = {one.item: one for one in records}
    columns = tuple(dict.fromkeys(name for one in records for name in one.scores))
    families: dict[str, list[Item]] = {}
    for item in items:
        families.setdefault(item.task, []).append(item)
    groups = [(family, family.replace("_", " ").capitalize(), families[family]) for family in sorted(families)]
    if len(groups) > 1:
        groups.append(("all", "All", list(items)))
    return [_exact_scores(task, title, columns, members, by_item) for task, title, members in groups]


def _exact_scores(
    task: str, title: str, columns: tuple[str, ...], items: list[Item], by_item: dict[str, ExactScores]
) -> TaskScores:
    absent = ExactScores(item="", status="missing")
    found = [by_item.get(item.id, absent) for item in items]
    scores = np.array([[_exact_score(one, name) for name in columns] for one in found]).reshape(len(found), -1)
    return _scores_of(task, title, columns, items, scores, [one.status for one in found])


def _exact_score(one: ExactScores, column: str) -> float:
    if one.status != "ok":
        return 0.0 if column == "success" else float("nan")
    score = one.scores.get(column)
    return float("nan") if score is None else float(score)
