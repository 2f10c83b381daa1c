"""Scoring editors: a benchmark -> an editor's videos -> scores by a judge or exact ones -> tables; files in between."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
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
    "tables",
]
