"""`sama eval predict`: an editor makes a video of every item; each is on record before the next begins.

A run that was stopped, or killed, resumes with the same command and ends with the same records. Failures are records
too, whatever raised them: nothing disappears, and no item stops the others. Only what would stop every item stops the
run: an editor that cannot start, or a full disk.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..judge.redact import reason_of
from ..system.errors import UserError
from ..system.files import FULL, hash_file
from ..system.journal import Journal
from ..system.workers import Progress
from ..video import VideoReader
from .benchmark import Item
from .editors import EditFailedError, Editor
from .records import PREDICTIONS, VIDEOS, Prediction, RunInfo, predictions_of, write_run

logger = logging.getLogger(__name__)

# Bytes; less is a full disk.
_LEAST_ROOM = 2**16
# Each run has one of another name: a program that outlived a killed run must not write into the files of the next.
_WORKING = "working-"


def select_items(items: Sequence[Item], tasks: Collection[str] = (), limit: int | None = None) -> list[Item]:
    """The items of some tasks, the first `limit` of each; in their order.

    Raises:
        UserError: for a task without items, or a limit below 1.
    """
    missing = sorted(set(tasks) - {item.task for item in items})
    if missing:
        there = ", ".join(dict.fromkeys(item.task for item in items))
        raise UserError(f"there is no item of the task {missing[0]!r}; there are {there}")
    if limit is not None and limit < 1:
        raise UserError(f"`limit` must be at least 1, got {limit}")
    taken: Counter[str] = Counter()
    selected = []
    for item in items:
        taken[item.task] += 1
        if (not tasks or item.task in tasks) and (limit is None or taken[item.task] <= limit):
            selected.append(item)
    return selected


def predict(
    info: RunInfo,
    items: Sequence[Item],
    editor: Editor,
    run: Path,
    *,
    retry_failed: bool = True,
    progress: Progress = lambda *_: None,
) -> list[Prediction]:
    """Edits every item that has no video yet.

    Args:
        info: about the run; the editor's settings are added.
        run: folder of the records; videos go to `run/videos/TASK/FILE_NAME`.
        retry_failed: edit again what failed before.
        progress: called as (phase, done, of) with numbers of items.

    Returns:
        The last record of each item, in the items' order.

    Raises:
        UserError: for a folder that holds another run or is being written, if no item can be edited, or for a full
            disk. What was edited is kept.
    """
    run = run.resolve()
    write_run(run, replace(info, settings={**info.settings, **editor.settings}), items)
    with Journal(run / PREDICTIONS) as journal, _working_folder(run) as working:
        known = predictions_of(run)
        for number, item in enumerate(items, 1):
            if not _is_done(known.get(item.id), run, retry_failed):
                known[item.id] = _predict_one(item, editor, run, Path(working))
                journal.append(asdict(known[item.id]))
            progress("editing", number, len(items))
    return [known[item.id] for item in items]


def _is_done(prediction: Prediction | None, run: Path, retry_failed: bool) -> bool:
    if prediction is None:
        return False
    if prediction.status == "failed":
        return not retry_failed
    return (run / prediction.file).is_file()


def _working_folder(run: Path) -> "tempfile.TemporaryDirectory[str]":
    """Where editors write; the journal's lock makes this process the only one."""
    for left_over in run.glob(f"{_WORKING}*"):
        shutil.rmtree(left_over)
    return tempfile.TemporaryDirectory(prefix=_WORKING, dir=run, ignore_cleanup_errors=True)


def _predict_one(item: Item, editor: Editor, run: Path, working: Path) -> Prediction:
    """Edits an item, or says why it was not edited.

    Raises:
        UserError: if no other item can be edited either.
    """
    output, final = working / item.file_name, run / VIDEOS / item.task / item.file_name
    started = time.monotonic()
    try:
        if not item.source.is_file():
            raise EditFailedError(f"there is no source {item.source}")
        editor(item, output)
        seconds = time.monotonic() - started
        _check_decodes(output)
        final.parent.mkdir(parents=True, exist_ok=True)
        sha256 = hash_file(output)
        os.replace(output, final)
    except Exception as error:  # what an editor raises is its own affair: the other items may go well
        with contextlib.suppress(OSError, ValueError):
            output.unlink(missing_ok=True)
        if _is_full(error, run):
            raise UserError(
                f"the disk is full: free some space in {run} and start the same command again to resume; what was "
                "edited is kept"
            ) from error
        if isinstance(error, UserError):
            raise
        logger.debug("%s failed", item.id, exc_info=error)
        reason = reason_of(error, EditFailedError).replace(str(working) + os.sep, "")
        seconds = time.monotonic() - started
        return Prediction(item=item.id, status="failed", seconds=round(seconds, 3), reason=reason)
    file = final.relative_to(run).as_posix()
    return Prediction(item=item.id, status="ok", file=file, sha256=sha256, seconds=round(seconds, 3))


def _is_full(error: BaseException | None, run: Path) -> bool:
    """Whether an item failed for a disk that has no room for the next one either. A program does not tell: look."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return shutil.disk_usage(run).free < _LEAST_ROOM


def _check_decodes(output: Path) -> None:
    """Raises EditFailedError unless every frame decodes: a judge or a metric would stumble over it later."""
    if not output.is_file():
        raise EditFailedError("it wrote no output")
    try:
        reader = VideoReader(output)
        for _ in reader.frames():
            pass
    except UserError as error:
        raise EditFailedError(f"its output does not decode: {error}") from error
    if reader.damaged:
        raise EditFailedError(f"its output is damaged: {reader.damaged}")


def summary(predictions: Sequence[Prediction]) -> list[str]:
    """A few lines for people: how many there are, and why the others are not."""
    edited = sum(one.status == "ok" for one in predictions)
    reasons = Counter(one.reason for one in predictions if one.status == "failed")
    lines = [f"{edited} of {len(predictions)} edited, {len(predictions) - edited} failed"]
    return lines + [f"  failed, {count}: {reason}" for reason, count in reasons.most_common(5)]
