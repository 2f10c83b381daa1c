"""One judge for curation and benchmarks: what it is shown and asked, what it answered; no answer is bought twice."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import answers, client, clips, parsing, questions, redact

__all__ = ["answers", "client", "clips", "parsing", "questions", "redact"]
