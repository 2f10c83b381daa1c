"""A run's folder -> its scores, and whether runs may stand in one table."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..system.errors import UserError
from ..system.journal import read_journal
from .aggregate import TaskScores, aggregate, aggregate_exact
from .benchmark import Benchmark, Item, find_benchmark
from .records import (
    ANSWERS,
    EXACT,
    MANIFEST,
    ExactScores,
    Judgment,
    Prediction,
    RunInfo,
    predictions_of,
    read_records,
    read_run,
)


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run and all that is known of it.

    Args:
        name: in tables.
        benchmark: None for the user's own pairs.
        judgments: by judge.
        judged: judge -> scores by the rule chosen.
        asked: judge -> how it was asked.
        exact: empty if nothing was scored exactly.
    """

    name: str
    path: Path
    info: RunInfo
    benchmark: Benchmark | None
    items: list[Item]
    predictions: dict[str, Prediction]
    judged: dict[str, list[TaskScores]]
    asked: dict[str, dict[str, Any]]
    exact: list[TaskScores]


def read_scored(paths: Sequence[Path], *, compat: bool = False) -> list[ScoredRun]:
    """Runs that may be compared, in the order given.

    Raises:
        UserError: for runs of different benchmarks, versions or items, and for scores of an older version.
    """
    runs = [_scored(path, compat) for path in paths]
    _check_comparable(runs)
    names = [run.info.editor for run in runs]
    # Two runs of one editor are told apart by their folders.
    return [
        run if names.count(run.name) == 1 else replace(run, name=f"{run.name}, {run.path.resolve().name}")
        for run in runs
    ]


def _scored(path: Path, compat: bool) -> ScoredRun:
    info, items = read_run(path)
    benchmark = None if info.benchmark == MANIFEST else find_benchmark(info.benchmark)
    if benchmark is not None and info.version != benchmark.version:
        raise UserError(
            f"{path} is a run of {benchmark.title} version {info.version}, and this is version {benchmark.version}: "
            "predict it again, and judge or score that"
        )
    asked = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(path.glob("judgments-*.json"))]
    exact = list(read_records(path / EXACT, ExactScores))
    return ScoredRun(
        name=info.editor,
        path=path,
        info=info,
        benchmark=benchmark,
        items=items,
        predictions=predictions_of(path),
        judged=_judged(path, benchmark, items, compat) if benchmark is not None else {},
        asked={one["judge"]: one for one in asked},
        exact=aggregate_exact(items, exact) if exact else [],
    )


def _judged(path: Path, benchmark: Benchmark, items: list[Item], compat: bool) -> dict[str, list[TaskScores]]:
    judgments = [one for file in sorted(path.glob("judgments-*.jsonl")) for one in read_records(file, Judgment)]
    texts = _first_texts(path) if compat else None
    return {
        judge: aggregate(benchmark, items, [one for one in judgments if one.judge == judge], compat=texts)
        for judge in sorted({one.judge for one in judgments})
    }


def _first_texts(path: Path) -> dict[str, str]:
    """Of the answers, by their keys: what an authors' script, which asks once, would have read."""
    return {
        record["key"]: next(iter(record.get("earlier", ())), record["text"]) for record in read_journal(path / ANSWERS)
    }


def _check_comparable(runs: Sequence[ScoredRun]) -> None:
    kinds = sorted({f"{run.info.benchmark} {run.info.version}".strip() for run in runs})
    if len(kinds) > 1:
        raise UserError(f"a table cannot mix {', '.join(kinds)}; report them one by one")
    if len({frozenset(item.id for item in run.items) for run in runs}) > 1:
        raise UserError("the runs do not have the same items; predict the missing ones, or report them one by one")


def choose_judge(runs: Sequence[ScoredRun], judge: str | None) -> str | None:
    """The judge of all runs; None where no run was judged.

    Raises:
        UserError: if runs were judged by others, or by several and none is named, or the one was asked in several ways.
    """
    known = sorted({name for run in runs for name in run.judged})
    common = [name for name in known if all(name in run.judged for run in runs)]
    if judge is not None and judge not in common:
        raise UserError(f"not every run was judged by {judge!r}; by all: {', '.join(common) or 'none'}")
    if judge is None and known and not common:
        raise UserError(f"a table cannot mix judges, and no judge judged all runs: {', '.join(known)}")
    if judge is None and len(common) > 1:
        raise UserError(f"the runs were judged by {' and '.join(common)}; choose one with `judge`")
    if judge is None and not common:
        return None
    chosen = judge or common[0]
    _check_asked_alike(runs, chosen)
    return chosen


def _check_asked_alike(runs: Sequence[ScoredRun], judge: str) -> None:
    first = runs[0].asked.get(judge, {})
    for run in runs[1:]:
        other = run.asked.get(judge, {})
        different = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
        if different:
            raise UserError(
                f"{judge} was asked otherwise about {run.name} than about {runs[0].name} ({', '.join(different)}); "
                "judge both with the same options"
            )


def same_judge(first: str, second: str) -> bool:
    """Whether two names mean one model, as "google/gemini-2.5-pro" and "Gemini-2.5-Pro" do; brackets do not count."""
    plain = [re.sub(r"\(.*\)|[^a-z0-9]", "", name.lower().rpartition("/")[2]) for name in (first, second)]
    return plain[0] == plain[1]
