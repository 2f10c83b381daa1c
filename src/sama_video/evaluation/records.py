"""What is in a run's folder between the commands: one line a record, appended when it is known.

`run.json` says what was run; `items.jsonl`, `predictions.jsonl`, `exact.jsonl` and `answers.jsonl` hold the records.
A later record of the same item replaces an earlier one.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..judge.redact import redactor_of, secrets_in
from ..system.errors import UserError
from ..system.files import make_folder, written_aside
from ..system.journal import read_journal
from .benchmark import Item

RUN, ITEMS, PREDICTIONS, EXACT, ANSWERS, VIDEOS = (
    "run.json",
    "items.jsonl",
    "predictions.jsonl",
    "exact.jsonl",
    "answers.jsonl",
    "videos",
)
# Stands for a benchmark in runs of the user's own pairs.
MANIFEST = "manifest"
_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run is.

    Args:
        benchmark, version: of the file in `benchmarks/`; `MANIFEST` and "" for the user's own pairs.
        data: folder or manifest that the items were read from.
        editor: name in tables.
        settings: what the editor was started with.
    """

    benchmark: str
    version: str
    data: str
    editor: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the editor made of an item.

    Args:
        status: "failed" items count as the benchmark says, they do not disappear.
        file: edited video, relative to the run's folder, or absolute if it was made elsewhere.
        sha256: of it.
        seconds: that the editor took.
        reason: of a failure.
    """

    item: str
    status: Literal["ok", "failed"]
    file: str = ""
    sha256: str = ""
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """A judge's answer to one repeat of an item.

    Args:
        judge: model.
        status: as in `judge.store.Answer`, and "missing" for an item without a video.
        scores: dimension -> score, of an "ok" answer.
        answer: key of the whole answer in `answers.jsonl`.
    """

    item: str
    judge: str
    repeat: int
    status: Literal["ok", "parse_failed", "refused", "error", "missing"]
    scores: dict[str, float] | None = None
    reason: str = ""
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class ExactScores:
    """Scores of an item that no judge gave; None where a metric does not apply.

    Args:
        status: "missing" for an item without a video, "failed" for one that cannot be compared.
        key: hash of all that the scores follow from; a record of another key is out of date.
    """

    item: str
    status: Literal["ok", "missing", "failed"]
    key: str = ""
    scores: dict[str, float | None] = dataclasses.field(default_factory=dict)
    reason: str = ""


def read_records(path: Path, kind: type[_Record]) -> Iterator[_Record]:
    """In their order. Raises UserError for a damaged line or one of another kind."""
    for number, values in enumerate(read_journal(path), 1):
        try:
            yield kind(**values)
        except TypeError as error:
            raise UserError(f"line {number} of {path} is no {kind.__name__} ({error}); delete it") from error


def write_run(run: Path, info: RunInfo, items: Sequence[Item]) -> None:
    """Begin a run, or resume one; it may grow by further items.

    Raises:
        UserError: for a folder that holds another run, or items that are not among these.
    """
    make_folder(run)
    texts = {RUN: _info_text(info), ITEMS: "".join(map(_item_line, items))}
    for name, text in texts.items():
        path = run / name
        # What UTF-8 cannot hold, such as a file's name that is not in it, becomes JSON's own way of writing it.
        text = text.encode("utf-8", "backslashreplace").decode()
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        grows = name == ITEMS and set(before.split("\n")) <= set(text.split("\n"))
        # Earlier releases wrote the secrets of a command.
        continues = grows or (name == RUN and before != "" and _info_text(RunInfo(**json.loads(before))) == text)
        if before not in ("", text) and not continues:
            raise UserError(f"{path} is of another run; choose another folder, or the same benchmark and editor")
        if before != text:
            with written_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")


def _info_text(info: RunInfo) -> str:
    """Without the keys and passwords of an editor's command line."""
    redact = redactor_of(secrets_in(str(info.settings.get("command", ""))))
    settings = {name: redact(value) if name == "command" else value for name, value in info.settings.items()}
    known = dataclasses.replace(info, editor=redact(info.editor), settings=settings)
    return json.dumps(asdict(known), indent=1, sort_keys=True) + "\n"


def read_run(run: Path) -> tuple[RunInfo, list[Item]]:
    """Raises UserError for a folder without a run."""
    if not (run / RUN).is_file() or not (run / ITEMS).is_file():
        raise UserError(f"{run} holds no run; 'sama eval predict BENCHMARK --out {run}' begins one")
    info = RunInfo(**json.loads((run / RUN).read_text(encoding="utf-8")))
    return info, [_item(values) for values in read_journal(run / ITEMS)]


_MEDIA = ("source", "target", "mask", "reference")


def _item_line(item: Item) -> str:
    values = asdict(item)
    del values["results"]
    return json.dumps(values, ensure_ascii=False, sort_keys=True, default=str) + "\n"


def _item(values: dict[str, Any]) -> Item:
    media = {key: Path(values[key]) for key in _MEDIA if values.get(key)}
    return Item(**{**values, **media})


def predictions_of(run: Path) -> dict[str, Prediction]:
    """The last record of each item."""
    return {one.item: one for one in read_records(run / PREDICTIONS, Prediction)}
