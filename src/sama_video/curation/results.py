"""Scores -> the output folder's files. All of them follow from manifest, settings and answers alone, byte for byte."""

import collections
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.manifest import Row, write_manifest
from ..system.files import written_aside
from .histogram import draw_histograms
from .rules import CurationConfig
from .score import Scored
from .select import Reason, rejections

# What UTF-8 cannot hold, from a manifest's texts, becomes JSON's own way of writing it.
ESCAPED = "backslashreplace"


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
class Report:
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


def write_results(rows: Sequence[Row], scored: list[Scored], config: CurationConfig, out: Path) -> Report:
    """Writes `scores.jsonl`, `kept.csv`, `rejected.csv`, `report.json`, `report.md` and `histogram.png` into `out`.

    Args:
        rows: of the manifest.
        scored: of each row, in the same order.
    """
    reasons = [rejections(one, config) for one in scored]
    report = _report(scored, reasons, config)
    judged = list(zip(rows, scored, reasons, strict=True))
    write_manifest(out / "kept.csv", (row for row, _, why in judged if not why))
    write_manifest(out / "rejected.csv", (_with_reasons(row, why) for row, _, why in judged if why))
    lines = [_score_line(row, one, why) for row, one, why in judged]
    _write_text(out / "scores.jsonl", "".join(lines))
    _write_text(out / "report.json", json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n")
    _write_text(out / "report.md", _markdown(report))
    _write(out / "histogram.png", lambda path: draw_histograms(scored, config, path))
    return report


def _with_reasons(row: Row, reasons: list[Reason]) -> Row:
    return replace(row, extra={**row.extra, "reasons": "; ".join(map(str, reasons))})


def _score_line(row: Row, one: Scored, reasons: list[Reason]) -> str:
    record = {"id": row.id, "kept": not reasons, "reasons": [str(reason) for reason in reasons], **asdict(one)}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _report(scored: list[Scored], reasons: list[list[Reason]], config: CurationConfig) -> Report:
    groups: dict[str, list[tuple[Scored, list[Reason]]]] = {}
    for one, why in zip(scored, reasons, strict=True):
        groups.setdefault(one.kind or "unreadable", []).append((one, why))
    return Report(counts={kind: _counts(groups[kind]) for kind in sorted(groups)}, settings=config.settings)


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


def _markdown(report: Report) -> str:
    lines = [f"# Curation: {report.kept} of {report.pairs} pairs kept", ""]
    lines += ["| kind | pairs | kept | rejected because (a pair may have several reasons) | failed turns |"]
    lines += ["|---|---|---|---|---|"]
    for kind, count in report.counts.items():
        lines.append(
            f"| {kind} | {count.pairs} | {count.kept} | {_listed(count.rejected)} | {_listed(count.failed_turns)} |"
        )
    lines += ["", "## Settings", "", "```json", json.dumps(report.settings, indent=2, ensure_ascii=False), "```"]
    lines += ["", "![Distribution of the scores](histogram.png)", ""]
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {number}" for name, number in counts.items()) or "-"


def _write_text(path: Path, text: str) -> None:
    _write(path, lambda aside: aside.write_text(text, encoding="utf-8", errors=ESCAPED, newline="\n"))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    with written_aside(path) as aside:
        write(aside)
