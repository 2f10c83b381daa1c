"""One judge for curation and benchmarks: what it is shown and asked, what it answered; no answer is bought twice."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
__all__ = ["answers", "client", "clips", "parsing", "questions", "redact"]
