"""Can a judge, or a score, be trusted? Controls of known worth must come out in their order.

A strict order holds if the whole interval of the paired difference is on the right side of 0; the others only fail if
it is wholly on the wrong side. A judge that breaks an order, or gives everything the same, is unfit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..media.metrics import METRICS
from ..system.data_files import table_beside
from ..system.errors import UserError
from .benchmark import Benchmark
from .scored import ScoredRun, choose_judge, read_scored
from .statistics import Interval, paired_difference
from .tables import Column, Table, TableRow

_EDITOR = "editor"

# What a dimension asks; all others ask how good the picture looks.
_FOLLOWING = {"semantic_accuracy", "instruct_follow", "compliance"}
_PRESERVATION = {"scope_precision", "content_preservation", "preservation", "fidelity"}
# Benchmarks whose prompt forbids the other dimensions to exceed the first: what follows nothing, preserves nothing.
_CAPPED = {"openve_bench"}


@dataclass(frozen=True, kw_only=True)
class _Order:
    """One control must score better than another.

    Args:
        measure: kind of dimensions ("following", "preservation", "quality"), or an exact score's name.
        with_target: only over items whose target is known: without one, "half" is half of another edit.
    """

    measure: str
    better: str
    worse: str
    strict: bool = True
    with_target: bool = False


def _orders(scores: str) -> list[_Order]:
    """Those of `sanity.yaml` for a "judge" or "exact" scores."""
    groups = table_beside(__file__)[scores]
    return [
        _Order(**{**group, "measure": measure, "worse": worse})
        for group in groups
        for measure in group["measure"]
        for worse in group["worse"]
    ]


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """What became of an order.

    Args:
        difference: better less worse, positive where it is as it must be.
    """

    order: _Order
    difference: Interval

    @property
    def name(self) -> str:
        order = self.order
        return f"{order.measure}: {order.better} {'>' if order.strict else '≥'} {order.worse}"

    @property
    def holds(self) -> bool:
        return self.difference.low > 0 if self.order.strict else not self.difference.high < 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether what was checked is fit, in tables and in sentences."""

    fit: bool
    tables: tuple[Table, ...]
    sentences: tuple[str, ...]


def check_controls(paths: Sequence[Path], judge: str | None = None) -> Verdict:
    """Compares runs of controls, and editors' runs if there are any, in what a judge gave and in exact scores.

    Raises:
        UserError: for runs that cannot be compared, or that leave no strict order to be tested.
    """
    runs = read_scored(paths)
    judge = choose_judge(runs, judge)
    findings = []
    if judge is not None:
        findings.append((f"The judge {judge}", _judge_findings(runs, judge)))
    if exact := _findings(runs, _orders("exact"), _exact_scores):
        findings.append(("The exact scores", exact))
    if not any(finding.order.strict for _, found in findings for finding in found):
        raise UserError(
            "these runs decide nothing: add runs with `control` identity, wrong-clip, noise and half, and with perfect "
            "where targets are known, judged or scored exactly"
        )
    return Verdict(
        fit=all(finding.holds for _, found in findings for finding in found),
        tables=tuple(_table(subject, found) for subject, found in findings),
        sentences=tuple(_sentence(subject, found) for subject, found in findings),
    )


def _judge_findings(runs: Sequence[ScoredRun], judge: str) -> list[_Finding]:
    benchmark = runs[0].benchmark
    assert benchmark is not None
    orders = _orders("judge")
    if benchmark.name in _CAPPED:
        orders = [order for order in orders if order.better != "half" or order.measure == "following"]
    return _findings(runs, orders, lambda run, measure: _kind_scores(run, benchmark, judge, measure))


Scores = dict[str, float]


def _findings(
    runs: Sequence[ScoredRun], orders: Sequence[_Order], scores_of: Callable[[ScoredRun, str], Scores]
) -> list[_Finding]:
    """The orders that these runs can decide, for every run that plays a part in them."""
    found = []
    for order in orders:
        for better in _playing(runs, order.better):
            for worse in _playing(runs, order.worse):
                difference = _difference(better, worse, order, scores_of)
                if difference is not None:
                    found.append(_Finding(order=order, difference=difference))
    return found


def _playing(runs: Sequence[ScoredRun], part: str) -> list[ScoredRun]:
    return [run for run in runs if run.info.settings.get("control", _EDITOR) == part]


def _difference(
    better: ScoredRun, worse: ScoredRun, order: _Order, scores_of: Callable[[ScoredRun, str], Scores]
) -> Interval | None:
    """Over the items that both have scores for; None if they are of fewer than two sources, which decide nothing."""
    first, second = scores_of(better, order.measure), scores_of(worse, order.measure)
    items = [
        item
        for item in better.items
        if item.id in first and item.id in second and (item.target is not None or not order.with_target)
    ]
    if len({item.cluster for item in items}) < 2:
        return None
    a, b = (np.array([scores[item.id] for item in items]) for scores in (first, second))
    lower_is_better = order.measure in METRICS and METRICS[order.measure].better == "lower"
    sign = -1 if lower_is_better else 1
    return paired_difference(sign * a, sign * b, [item.cluster for item in items])


def _kind_scores(run: ScoredRun, benchmark: Benchmark, judge: str, kind: str) -> Scores:
    """Mean of each item's dimensions of a kind."""
    scores: Scores = {}
    for task in run.judged[judge]:
        dimensions = benchmark.task(task.task).dimensions
        columns = [index for index, dimension in enumerate(dimensions) if _kind(dimension) == kind]
        if columns:
            scores |= dict(zip(task.items, task.scores[:, columns].mean(axis=1).tolist(), strict=True))
    return scores


def _kind(dimension: str) -> str:
    return "following" if dimension in _FOLLOWING else "preservation" if dimension in _PRESERVATION else "quality"


def _exact_scores(run: ScoredRun, metric: str) -> Scores:
    if not run.exact or metric not in run.exact[-1].columns:
        return {}
    everything = run.exact[-1]
    column = everything.scores[:, everything.columns.index(metric)]
    return {item: score for item, score in zip(everything.items, column.tolist(), strict=True) if not math.isnan(score)}


def _table(subject: str, findings: Sequence[_Finding]) -> Table:
    return Table(
        title=f"{subject}: controls that must be better, and by how much",
        first="Must hold",
        columns=(Column(name="better by", better=""),),
        rows=tuple(
            TableRow(name=one.name if one.holds else f"{one.name} FAILS", cells=(one.difference,)) for one in findings
        ),
        decimals=3,
        notes=("In brackets: 95% interval. '>' must lie above 0 with its whole interval, '≥' must not lie below.",),
    )


def _sentence(subject: str, findings: Sequence[_Finding]) -> str:
    broken = [one.name for one in findings if not one.holds]
    if broken:
        return f"{subject}: UNFIT. {len(broken)} of {len(findings)} orders do not hold: {'; '.join(broken)}."
    return f"{subject}: fit. All {len(findings)} orders hold."
