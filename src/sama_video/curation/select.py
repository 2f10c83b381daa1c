"""Scores and thresholds -> which pairs are kept, and why the others are not."""

from dataclasses import dataclass

from .rules import CurationConfig
from .score import Scored


@dataclass(frozen=True)
class Reason:
    """Why a pair is rejected: a category to count by, and the particulars."""

    category: str
    detail: str

    def __str__(self) -> str:
        return f"{self.category}: {self.detail}"


def rejections(scored: Scored, config: CurationConfig) -> list[Reason]:
    """All that speaks against a pair; empty if it is kept."""
    if scored.unreadable:
        return [Reason("unreadable", scored.unreadable)]
    reasons = []
    for score, threshold in config.thresholds(scored.kind).items():
        average = scored.averages[score]
        if average is None:
            given = sum(value is not None for value in scored.turns[score])
            reasons.append(Reason("judge failed", f"{score} has {given} of {config.turns} turns"))
        elif average < threshold:
            reasons.append(Reason(f"{score} below {threshold:g}", f"{average:g}"))
    return reasons
