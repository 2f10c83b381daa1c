"""Scores -> which pairs are kept and why the others are not, and the output folder's files.

All of them follow from manifest, settings and answers alone, byte for byte.
"""

import collections
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.manifest import Row, write_manifest
from ..system.files import written_aside
from .histogram import draw_histograms
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
    for dimension, threshold in config.thresholds(scored.kind).items():
        average = scored.averages[dimension]
        if average is None:
            given = sum(value is not None for value in scored.turns[dimension])
            reasons.append(Reason("judge failed", f"{dimension} has {given} of {config.turns} turns"))
        elif average < threshold:
            reasons.append(Reason(f"{dimension} below {threshold:g}", f"{average:g}"))
    return reasons


@dataclass(frozen=True, kw_only=True)
class KindCounts:
    """Of images, of videos, or of pairs that cannot be read (whose kind is unknown).

    Args:
        pairs, kept: numbers of pairs.
        rejected: numbers of pairs by reason; a pair may have several.
        failed_turns: numbers of the judge's turns without a score, by status.
    """

    pairs: int
    kept: int
    rejected: dict[str, int]
    failed_turns: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class CurationResult:
    """Counts by kind (`image`, `video`, `unreadable`), and the settings they hold for."""

    counts: dict[str, KindCounts]
    settings: dict[str, Any]

    @property
    def pairs(self) -> int:
        return sum(count.pairs for count in self.counts.values())

    @property
    def kept(self) -> int:
        return sum(count.kept for count in self.counts.values())

    @property
    def unanswered(self) -> int:
        """Turns that the endpoint gave no answer to; the next start asks them again."""
        return sum(count.failed_turns.get("error", 0) for count in self.counts.values())


def write_results(rows: Sequence[Row], scored: list[Scored], config: CurationConfig, out: Path) -> CurationResult:
    """Writes `scores.jsonl`, `kept.csv`, `rejected.csv`, `report.json`, `report.md` and `histogram.png` into `out`.

    Args:
        rows: of the manifest.
        scored: of each row, in the same order.
    """
    reasons = [rejections(one, config) for one in scored]
    result = _result(scored, reasons, config)
    judged = list(zip(rows, scored, reasons, strict=True))
    write_manifest(out / "kept.csv", (row for row, _, why in judged if not why))
    rejected = [(row, "; ".join(map(str, why))) for row, _, why in judged if why]
    write_manifest(out / "rejected.csv", (replace(row, extra={**row.extra, "reasons": why}) for row, why in rejected))
    records = [
        {"id": row.id, "kept": not why, "reasons": list(map(str, why)), **asdict(one)} for row, one, why in judged
    ]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    _write_text(out / "scores.jsonl", "".join(lines))
    _write_text(out / "report.json", json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")
    _write_text(out / "report.md", _markdown(result))
    with written_aside(out / "histogram.png") as aside:
        draw_histograms(scored, config, aside)
    return result


def _result(scored: list[Scored], reasons: list[list[Reason]], config: CurationConfig) -> CurationResult:
    groups: dict[str, list[tuple[Scored, list[Reason]]]] = {}
    for one, why in zip(scored, reasons, strict=True):
        groups.setdefault(one.kind or "unreadable", []).append((one, why))
    return CurationResult(counts={kind: _counts(groups[kind]) for kind in sorted(groups)}, settings=config.settings)


def _counts(group: list[tuple[Scored, list[Reason]]]) -> KindCounts:
    rejected = collections.Counter(category for _, why in group for category in {reason.category for reason in why})
    failed_turns = collections.Counter()
    for one, _ in group:
        failed_turns.update(one.failures)
    return KindCounts(
        pairs=len(group),
        kept=sum(not why for _, why in group),
        rejected=dict(sorted(rejected.items())),
        failed_turns=dict(sorted(failed_turns.items())),
    )


def _markdown(result: CurationResult) -> str:
    lines = [f"# Curation: {result.kept} of {result.pairs} pairs kept", ""]
    lines += ["| kind | pairs | kept | rejected because (a pair may have several reasons) | failed turns |"]
    lines += ["|---|---|---|---|---|"]
    for kind, count in result.counts.items():
        lines.append(
            f"| {kind} | {count.pairs} | {count.kept} | {_listed(count.rejected)} | {_listed(count.failed_turns)} |"
        )
    lines += ["", "## Settings", "", "```json", json.dumps(result.settings, indent=2, ensure_ascii=False), "```"]
    lines += ["", "![Distribution of the scores](histogram.png)", ""]
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {number}" for name, number in counts.items()) or "-"


def _write_text(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        # What UTF-8 cannot hold, from a manifest's texts, becomes JSON's own way of writing it.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
