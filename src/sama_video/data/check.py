"""Check a manifest before training on it: every file is decoded to its end, every pair must fit together.

Work is done once per file, however many rows name it, and every finished file is on disk in `journal.jsonl` before the
next result counts. A stopped check, even a killed one, resumes where it was; files that changed since are looked at
again. What becomes of the rows follows from what was found in the files alone, so the results do not depend on
interruptions, on the number of workers or on their order.
"""

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..system.errors import UserError
from ..system.files import hash_file, written_aside
from ..system.journal import Journal, read_journal
from ..system.workers import Progress, in_threads
from ..video import VideoReader
from .file_info import file_version
from .manifest import EDIT_PAIR, MEDIA_FIELDS, Manifest, Row, local_file, write_manifest

_JOURNAL = "journal.jsonl"
# Belongs to a file's identity: what was found by older rules does not count.
_RULES_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with a file or a row.

    Args:
        reason: one of a few, for counting.
        detail: the same with its numbers and names, a sentence.
    """

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """What one file holds.

    Args:
        media: path or URL as rows name it.
        identity: changes when the file does.
        digest: SHA-256 of its bytes.
        num_frames: that really decode; 1 for an image.
        height, width: upright, in square pixels.
        problem: None for a sound file; the fields above are then all known.
    """

    media: str
    identity: str
    digest: str = ""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    is_image: bool = False
    problem: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The outcome of a check; `report.json` holds the same.

    Args:
        num_rows: in the manifest; those that passed are `num_clean`.
        reasons: how many rows were rejected for each reason; a row may have several.
        warnings: ids of rows that passed although something is odd, by what that is.
        frame_counts: how many clean rows have so many source frames.
        sizes: how many clean rows have sources of so many pixels, "832x480".
    """

    num_rows: int
    num_clean: int
    reasons: dict[str, int]
    warnings: dict[str, list[str]]
    frame_counts: dict[int, int]
    sizes: dict[str, int]

    def summary(self) -> list[str]:
        """A few lines for people."""
        lines = [f"{self.num_clean} of {self.num_rows} rows passed, {self.num_rows - self.num_clean} rejected"]
        lines += [f"  rejected, {reason}: {count}" for reason, count in self.reasons.items()]
        lines += [f"  warning, {warning}: {len(ids)}" for warning, ids in self.warnings.items()]
        if self.frame_counts:
            middle = statistics.median_low(Counter(self.frame_counts).elements())
            lines.append(f"  frames: {min(self.frame_counts)} to {max(self.frame_counts)}, median {middle}")
            common = sorted(self.sizes.items(), key=lambda size: (-size[1], size[0]))[:5]
            lines.append("  sizes: " + ", ".join(f"{size} ({count})" for size, count in common))
        return lines


def check_manifest(
    manifest: Manifest,
    folder: Path,
    *,
    workers: int | None = None,
    required: Sequence[str] = EDIT_PAIR,
    progress: Progress = lambda *_: None,
) -> CheckResult:
    """Checks every row and writes `clean.csv`, `rejected.csv` and `report.json` to `folder`.

    A row is rejected if a required field is empty, a file is missing, unreadable, damaged or without frames, the
    pair mixes image and video, source, target and mask differ in size or number of frames (a mask may be one picture),
    an earlier clean row has the same id, or the same files and prompt. A target with its source's bytes is a warning.

    Args:
        folder: made if it is missing. Holds the journal too: a check with the same folder resumes.
        workers: threads; decoding leaves Python's lock, so they run side by side. None for one per core.
        required: fields that no row may leave empty.
        progress: called with a phase's name, the files done and all of them.

    Raises:
        UserError: for a folder that cannot be written, or a full disk; the journal keeps what was done.
    """
    files = _check_files(_all_media(manifest), folder / _JOURNAL, workers or os.cpu_count() or 1, progress)
    verdicts = _judge(manifest, files, required)
    write_manifest(folder / "clean.csv", (verdict.row for verdict in verdicts if not verdict.problems))
    write_manifest(folder / "rejected.csv", (_with_reason(verdict) for verdict in verdicts if verdict.problems))
    result = _summarise(verdicts, files)
    with written_aside(folder / "report.json") as aside:
        aside.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return result


# Files


def _all_media(manifest: Manifest) -> list[str]:
    """Every file that a row names, once, in the manifest's order."""
    return list(dict.fromkeys(media for row in manifest for media in _media_of(row).values()))


def _media_of(row: Row) -> dict[str, str]:
    named = {name: getattr(row, name) for name in MEDIA_FIELDS}
    return {name: media for name, media in named.items() if media is not None}


def _check_files(media: Sequence[str], journal: Path, workers: int, progress: Progress) -> dict[str, CheckedFile]:
    known = {file.media: file for file in map(_file_from, read_journal(journal))}
    files = {}
    with Journal(journal) as log:
        for file in in_threads(lambda one: check_media(one, known.get(one)), media, workers, in_order=False):
            if file != known.get(file.media):
                log.append(asdict(file))
            files[file.media] = file
            progress("checking", len(files), len(media))
    return files


def _file_from(values: dict) -> CheckedFile:
    problem = values.pop("problem")
    return CheckedFile(**values, problem=problem and Problem(**problem))


def check_media(media: str, known: CheckedFile | None = None) -> CheckedFile:
    """Reads a file to its end. `known` is returned if it is about the file as it is now. Never raises."""
    try:
        identity = _identity(media)
    except FileNotFoundError:
        return CheckedFile(media=media, identity="", problem=Problem(reason="missing file", detail=f"no file {media}"))
    except Exception as error:  # a bad row never stops a check, and fsspec's backends have exceptions of their own
        return CheckedFile(media=media, identity="", problem=_unreadable(media, error))
    if known is not None and identity and known.identity == identity:
        return known
    empty = CheckedFile(media=media, identity=identity)
    try:
        with local_file(media) as path:
            try:
                return _read_to_the_end(path, empty)
            except Exception as error:  # decoders fail in many ways, Pillow's protection against huge images too
                return replace(empty, problem=_unreadable(media, error, path))
    except UserError as error:  # a fetch that failed is tried again next time, so there is no identity
        return CheckedFile(media=media, identity="", problem=_unreadable(media, error))


def _identity(media: str) -> str:
    """Empty for a file of which nobody knows whether it changed: it is looked at again."""
    version = file_version(media)
    return "" if version is None else f"{_RULES_VERSION}-{version}"


def _unreadable(media: str, error: Exception, path: Path | None = None) -> Problem:
    """`path`, a temporary name, gives way to the one that the user knows."""
    text = str(error) or type(error).__name__
    return Problem(reason="unreadable file", detail=text if path is None else text.replace(str(path), media))


def _read_to_the_end(path: Path, empty: CheckedFile) -> CheckedFile:
    reader = VideoReader(path)
    info, num_frames = reader.info, sum(1 for _ in reader.times())
    damage = reader.damaged
    if damage is None and num_frames < info.num_frames:
        damage = f"holds {num_frames} of the {info.num_frames} frames that it announces"
    problem = None
    if damage is not None:
        problem = Problem(reason="damaged file", detail=f"{empty.media} {damage}")
    return replace(
        empty,
        digest=hash_file(path),
        num_frames=num_frames,
        height=info.height,
        width=info.width,
        is_image=info.is_image,
        problem=problem,
    )


# Rows


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    row: Row
    problems: list[Problem]
    is_unchanged: bool  # its target has its source's bytes


def _judge(manifest: Iterable[Row], checked: Mapping[str, CheckedFile], required: Sequence[str]) -> list[_Verdict]:
    ids: set[str] = set()
    contents: dict[tuple, str] = {}
    verdicts = []
    for row in manifest:
        files = {name: checked[media] for name, media in _media_of(row).items()}
        problems = [*_empty_fields(row, required), *_bad_files(files)]
        if not problems:
            content = (row.prompt, *(files[name].digest if name in files else None for name in MEDIA_FIELDS))
            problems = [*_misfits(files), *_repetitions(row, content, ids, contents)]
            if not problems:
                ids.add(row.id)
                contents[content] = row.id
        verdicts.append(_Verdict(row=row, problems=problems, is_unchanged=_is_unchanged(files)))
    return verdicts


def _empty_fields(row: Row, required: Sequence[str]) -> Iterator[Problem]:
    for name in required:
        value = getattr(row, name)
        if value is None or not value.strip():
            yield Problem(reason=f"empty {name}", detail=f"{name} is empty")


def _bad_files(files: Mapping[str, CheckedFile]) -> list[Problem]:
    problems = [file.problem for file in files.values() if file.problem is not None]
    # A row may name one file twice.
    return list(dict.fromkeys(problems))


def _misfits(files: Mapping[str, CheckedFile]) -> Iterator[Problem]:
    """Source, target and mask against the first of them that the row has."""
    present = [name for name in ("src_video", "tgt_video", "mask") if name in files]
    for name in present[1:]:
        first, other = files[present[0]], files[name]
        pair = f"{present[0]} and {name}"
        if (first.height, first.width) != (other.height, other.width):
            sizes = f"{first.width}x{first.height} and {other.width}x{other.height}"
            yield Problem(reason=f"sizes of {pair} differ", detail=f"sizes of {pair} differ: {sizes}")
        if name == "mask" and other.is_image:
            continue  # one mask for all frames
        if first.is_image != other.is_image:
            yield Problem(reason="image and video mixed", detail=f"one of {pair} is an image, the other a video")
        elif first.num_frames != other.num_frames:
            counts = f"{first.num_frames} and {other.num_frames}"
            yield Problem(reason=f"frame counts of {pair} differ", detail=f"frame counts of {pair} differ: {counts}")


def _repetitions(row: Row, content: tuple, ids: set[str], contents: Mapping[tuple, str]) -> Iterator[Problem]:
    if row.id in ids:
        yield Problem(reason="id used before", detail=f"an earlier row has the id {row.id}")
    if content in contents:
        yield Problem(reason="duplicate", detail=f"same files and prompt as row {contents[content]}")


def _is_unchanged(files: Mapping[str, CheckedFile]) -> bool:
    source, target = files.get("src_video"), files.get("tgt_video")
    return source is not None and target is not None and source.digest == target.digest


def _with_reason(verdict: _Verdict) -> Row:
    reason = "; ".join(problem.detail for problem in verdict.problems)
    return replace(verdict.row, extra={**verdict.row.extra, "reason": reason})


def _summarise(verdicts: Sequence[_Verdict], files: Mapping[str, CheckedFile]) -> CheckResult:
    clean = [verdict for verdict in verdicts if not verdict.problems]
    reasons = Counter(reason for verdict in verdicts for reason in {problem.reason for problem in verdict.problems})
    unchanged = [verdict.row.id for verdict in clean if verdict.is_unchanged]
    shown = [files[media] for verdict in clean if (media := verdict.row.src_video or verdict.row.tgt_video)]
    return CheckResult(
        num_rows=len(verdicts),
        num_clean=len(clean),
        reasons=dict(sorted(reasons.items())),
        warnings={"target equals source": unchanged} if unchanged else {},
        frame_counts=dict(sorted(Counter(file.num_frames for file in shown).items())),
        sizes=dict(sorted(Counter(f"{file.width}x{file.height}" for file in shown).items())),
    )
