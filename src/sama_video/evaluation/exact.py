"""`sama eval exact`: scores that no judge gives, of a run or of any manifest of finished edits.

The rule for edits of another shape: everything is compared at the source's size (bicubic), over the frames that all
clips of the item have, counted from the first. `resized` and `length_difference` in the record say what was done.

Shape legend: F frames, H W pixels of the source. Clips are uint8 `[F, H, W, 3]`, masks bool `[F, H, W]`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..data.manifest import read_manifest
from ..judge.redact import reason_of
from ..media.metrics import SUCCESS_FACTOR, flicker, haarpsi, motion_error, psnr, score_edit, ssim
from ..system.errors import UserError
from ..system.files import hash_file
from ..system.journal import Journal
from ..system.workers import Progress, in_threads
from ..video import IMAGE_SUFFIXES, VideoReader
from .aggregate import aggregate_exact
from .benchmark import Item
from .pairs import edited_files, manifest_items
from .records import (
    EXACT,
    MANIFEST,
    PREDICTIONS,
    ExactScores,
    Prediction,
    RunInfo,
    predictions_of,
    read_records,
    read_run,
    write_run,
)
from .tables import ONE_SOURCE, few_sources_notes

# Belongs to a record's key: raised whenever a score would come out otherwise than before.
SCORES_VERSION = 1
_Scores = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ExactConfig:
    """How a run is scored.

    Args:
        success_factor: how many times nearer to the target than the source a success is, in squared error.
        semantic_encoder: SigLIP for text agreement and frame consistency: "nano", a folder or a hub id; None leaves
            them out.
        workers: items at a time; None for one a core.
    """

    success_factor: float = SUCCESS_FACTOR
    semantic_encoder: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.success_factor <= 0:
            raise UserError(f"`success_factor` must be above 0, got {self.success_factor:g}")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"`workers` must be at least 1, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What belongs to one edit, all of one size and length.

    Args:
        target, mask: None where they are not known.
        resized: whether the prediction had another size than the source.
        length_difference: frames of the prediction less those of the source.
    """

    source: np.ndarray
    prediction: np.ndarray
    target: np.ndarray | None
    mask: np.ndarray | None
    resized: bool
    length_difference: int


def score_run(run: Path, config: ExactConfig, progress: Progress = lambda *_: None) -> list[ExactScores]:
    """Scores every item of a run; what is scored and has not changed since is left as it is.

    Returns:
        The last record of each item, in the items' order.

    Raises:
        UserError: for a folder without a run, or one that is being scored; without OpenCV; for a semantic encoder
            that cannot be loaded.
    """
    run = run.resolve()
    _, items = read_run(run)
    predictions = predictions_of(run)
    semantic = None
    if config.semantic_encoder is not None:
        from .semantics import SemanticScorer  # imports torch

        semantic = SemanticScorer(config.semantic_encoder)
    with Journal(run / EXACT) as journal:
        known = {record.item: record for record in read_records(run / EXACT, ExactScores)}

        def score(item: Item) -> ExactScores:
            return _score_item(item, predictions.get(item.id), run, known.get(item.id), config, semantic)

        records = []
        for record in in_threads(score, items, config.workers or os.cpu_count() or 1):
            if known.get(record.item) != record:
                journal.append(asdict(record))
            records.append(record)
            progress("scoring", len(records), len(items))
    return records


def _score_item(
    item: Item,
    prediction: Prediction | None,
    run: Path,
    known: ExactScores | None,
    config: ExactConfig,
    semantic: Callable[[np.ndarray, str], _Scores] | None,
) -> ExactScores:
    if prediction is None or prediction.status != "ok" or not (run / prediction.file).is_file():
        reason = prediction.reason if prediction is not None and prediction.reason else "there is no edited video"
        return ExactScores(item=item.id, status="missing", reason=reason)
    try:
        key = _key(item, prediction, config)
        if known is not None and known.key == key:
            return known
        clips = read_clips(item, run / prediction.file)
    except Exception as error:  # one pair that cannot be read does not stop the others
        return ExactScores(item=item.id, status="failed", reason=reason_of(error))
    try:
        scores = score_clips(clips, config.success_factor)
        if semantic is not None:
            scores |= semantic(clips.prediction, item.instruction)
    except UserError:  # a package that is missing is missing for all
        raise
    except Exception as error:
        return ExactScores(item=item.id, status="failed", reason=reason_of(error))
    return ExactScores(item=item.id, status="ok", key=key, scores=scores)


def _key(item: Item, prediction: Prediction, config: ExactConfig) -> str:
    media = [_contents(file) for file in (item.source, item.target, item.mask)]
    parts = [SCORES_VERSION, prediction.sha256, media, item.instruction, config.success_factor, config.semantic_encoder]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _contents(media: Path | None) -> list[str]:
    """Hashes of a file, or of a folder's files."""
    if media is None:
        return []
    return [hash_file(file) for file in (sorted(media.iterdir()) if media.is_dir() else [media])]


def read_clips(item: Item, prediction: Path) -> Clips:
    """An item and its edit, decoded and brought to the source's size and the shortest length.

    Raises:
        UserError: for a file that does not decode.
    """
    info, own = VideoReader(item.source).info, VideoReader(prediction).info
    size = (info.height, info.width)
    files = {"source": item.source, "prediction": prediction, "target": item.target, "mask": item.mask}
    clips = {role: _frames(file, size) for role, file in files.items() if file is not None}
    difference = len(clips["prediction"]) - len(clips["source"])
    if "mask" in clips and len(clips["mask"]) == 1:
        # One picture may say for a whole clip where it changes.
        clips["mask"] = np.broadcast_to(clips["mask"], (len(clips["source"]), *clips["mask"].shape[1:]))
    length = min(map(len, clips.values()))
    mask = clips.get("mask")
    return Clips(
        source=clips["source"][:length],
        prediction=clips["prediction"][:length],
        target=clips["target"][:length] if "target" in clips else None,
        mask=None if mask is None else mask[:length, ..., 0] > 127,
        resized=(own.height, own.width) != size,
        length_difference=difference,
    )


def _frames(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Of a video, a picture, or a folder of pictures in the order of their names."""
    if not file.is_dir():
        return np.stack([frame.pixels for frame in VideoReader(file).frames(size=size)])
    pictures = [path for path in sorted(file.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        raise UserError(f"the mask {file} holds no picture; is the download complete?")
    return np.concatenate([_frames(picture, size) for picture in pictures])


def score_clips(clips: Clips, success_factor: float = SUCCESS_FACTOR) -> _Scores:
    """All scores of `metrics.METRICS` that apply, and what was done to compare.

    Where the target is known, an edit is measured against it, and outside the mask against the source; else it is
    measured against the source alone.

    Raises:
        UserError: without OpenCV.
    """
    scores: _Scores = {"resized": float(clips.resized), "length_difference": float(clips.length_difference)}
    if clips.target is not None:
        scores |= _similarity(clips.prediction, clips.target, None, "")
        scores["flicker"] = flicker(clips.prediction, clips.target)
        scores["motion_error"] = motion_error(clips.prediction, clips.target)
    else:
        scores["flicker_to_source"] = flicker(clips.prediction, clips.source)
        scores["motion_error_to_source"] = motion_error(clips.prediction, clips.source)
    if clips.target is not None and clips.mask is not None:
        success = score_edit(clips.prediction, clips.source, clips.target, clips.mask, success_factor).success
        scores["success"] = None if success is None else float(success)
        scores |= _similarity(clips.prediction, clips.target, clips.mask, "_inside")
    if clips.mask is not None:
        scores |= _similarity(clips.prediction, clips.source, ~clips.mask, "_outside")
    elif clips.target is None:
        scores |= _similarity(clips.prediction, clips.source, None, "_to_source")
    return scores


def _similarity(clip: np.ndarray, reference: np.ndarray, mask: np.ndarray | None, suffix: str) -> _Scores:
    return {f"{metric.__name__}{suffix}": metric(clip, reference, mask) for metric in (psnr, ssim, haarpsi)}


def run_of_manifest(
    manifest: Path, edited: str, run: Path, name: str, *, column_map: Mapping[str, str] | None = None
) -> None:
    """Make a run of edits that are finished and stay where they are, so that it can be scored and reported.

    Args:
        manifest: with sources and instructions, and targets and masks where they are known.
        edited: its column of edited videos; "tgt_video" takes the targets for that.
        name: of the editor, in tables.

    Raises:
        UserError: for a manifest that cannot be used, or a folder that holds another run.
    """
    rows = read_manifest(manifest, column_map=column_map, required=("src_video", "prompt"))
    files = edited_files(rows, edited)
    items = manifest_items(rows)
    if edited == "tgt_video":
        items = [replace(item, target=None) for item in items]
    info = RunInfo(benchmark=MANIFEST, version="", data=str(manifest.resolve()), editor=name)
    write_run(run, replace(info, settings={"edited": edited}), items)
    with Journal(run / PREDICTIONS) as journal:
        known = predictions_of(run)
        for item in items:
            prediction = _adopted(item, files[item.id])
            if known.get(item.id) != prediction:
                journal.append(asdict(prediction))


def _adopted(item: Item, file: Path | None) -> Prediction:
    if file is None or not file.is_file():
        reason = "the manifest names no edited video" if file is None else f"there is no file {file}"
        return Prediction(item=item.id, status="failed", reason=reason)
    return Prediction(item=item.id, status="ok", file=str(file), sha256=hash_file(file))


def summary(items: Sequence[Item], records: Sequence[ExactScores]) -> list[str]:
    """For people: what was counted, and the mean of each score with its interval over all items."""
    whole = aggregate_exact(items, records)[-1]
    counts = whole.counts
    lines = [
        f"{counts.ok} of {len(items)} scored, {counts.missing} missing, {counts.failed} failed; means and intervals:"
    ]
    intervals = whole.intervals()
    for name, interval in zip(whole.columns, intervals, strict=True):
        spread = ONE_SOURCE if interval.sources == 1 else f"[{interval.low:.3f}, {interval.high:.3f}]"
        lines.append(f"  {name}: {interval.value:.3f} {spread}")
    return [*lines, *few_sources_notes(intervals)]
