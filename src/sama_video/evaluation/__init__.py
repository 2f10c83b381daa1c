"""Scoring editors: a benchmark -> an editor's videos -> scores by a judge or exact ones -> tables; files in between."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        aggregate,
        benchmark,
        editors,
        exact,
        judging,
        layouts,
        pairs,
        predict,
        records,
        report,
        sanity,
        statistics,
        tables,
    )

__all__ = [
    "aggregate",
    "benchmark",
    "editors",
    "exact",
    "judging",
    "layouts",
    "pairs",
    "predict",
    "records",
    "report",
    "sanity",
    "statistics",
    "tables",
]
