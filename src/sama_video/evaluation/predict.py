"""`sama eval predict`: an editor makes a video of every item; each is on record before the next begins.

A run that was stopped, or killed, goes on with the same command and ends with the same records. Failures are records
too: nothing disappears.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import UserError
from ..files import hash_file
from ..journal import Journal
from ..judge.batch import Progress
from ..video import VideoReader
from .benchmark import Item
from .editors import EditFailedError, Editor
from .records import PREDICTIONS, VIDEOS, Prediction, RunInfo, predictions_of, write_run

# Named by process: a program that outlived a killed run must not write into the files of the next.
WORKING = "working-"


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
        raise UserError(f"--limit must be at least 1, got {limit}")
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
        UserError: for a folder that holds another run or is being written, or if no item can be edited.
    """
    run = run.resolve()
    write_run(run, replace(info, settings={**info.settings, **editor.settings}), items)
    with Journal(run / PREDICTIONS) as journal, _working_folder(run) as working:
        known = predictions_of(run)
        for number, item in enumerate(items, 1):
            if not _is_done(known.get(item.id), run, retry_failed):
                known[item.id] = _predict_one(item, editor, run, working)
                journal.append(asdict(known[item.id]))
            progress("editing", number, len(items))
    return [known[item.id] for item in items]


def _is_done(prediction: Prediction | None, run: Path, retry_failed: bool) -> bool:
    if prediction is None:
        return False
    if prediction.status == "failed":
        return not retry_failed
    return (run / prediction.file).is_file()


@contextmanager
def _working_folder(run: Path) -> Iterator[Path]:
    """Where editors write; the journal's lock makes this process the only one."""
    for left_over in run.glob(f"{WORKING}*"):
        shutil.rmtree(left_over)
    folder = run / f"{WORKING}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _predict_one(item: Item, editor: Editor, run: Path, working: Path) -> Prediction:
    output, final = working / item.file_name, run / VIDEOS / item.task / item.file_name
    started = time.monotonic()
    try:
        if not item.source.is_file():
            raise EditFailedError(f"there is no source {item.source}")
        editor(item, output)
        seconds = time.monotonic() - started
        _check_decodes(output)
    except EditFailedError as error:
        output.unlink(missing_ok=True)
        seconds = time.monotonic() - started
        reason = str(error).replace(str(working) + os.sep, "")
        return Prediction(item=item.id, status="failed", seconds=round(seconds, 3), reason=reason)
    final.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hash_file(output)
    os.replace(output, final)
    file = final.relative_to(run).as_posix()
    return Prediction(item=item.id, status="ok", file=file, sha256=sha256, seconds=round(seconds, 3))


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
