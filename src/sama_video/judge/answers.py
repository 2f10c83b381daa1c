"""The judge's answers on disk: one JSON line each, addressed by all that the answer depends on, appended at once.

A line is on the disk before the next question is asked, so a run that is killed loses only what was in flight. One
process writes a store at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from ..system.errors import UserError
from ..system.journal import Journal, read_journal


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one question.

    Args:
        key: address, see `Question.key`.
        task: name and version of the task, for readers of the file.
        status: `ok`; `parse_failed` if no attempt gave what the prompt asks for; `refused` by the model; `error` if
            the endpoint gave no answer at all.
        scores: of an `ok` answer.
        reason: of any other status.
        text: the last attempt's text as it came, at most `questions.LONGEST_TEXT` characters of it; secrets are masked.
        earlier: texts of the attempts before it, which were malformed.
        attempts: completions that were paid for.
        input_tokens, output_tokens: over all attempts, as the endpoint counts them.
    """

    key: str
    task: str
    status: Literal["ok", "parse_failed", "refused", "error"]
    scores: dict[str, float] | None = None
    reason: str = ""
    text: str = ""
    earlier: tuple[str, ...] = ()
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def is_bought(self) -> bool:
        """An error is no answer: it cost nothing, and the next start asks again."""
        return self.status != "error"


def read_answers(path: Path) -> dict[str, Answer]:
    """Answers by key, the last of each; a line torn by a crash at the end does not count.

    Texts are left on the disk: millions of answers fit into memory without them.

    Raises:
        UserError: if any other line is damaged.
    """
    return {answer.key: _without_texts(answer) for answer in _complete_answers(path)}


def _without_texts(answer: Answer) -> Answer:
    return replace(answer, text="", earlier=())


def _complete_answers(path: Path) -> Iterator[Answer]:
    for number, record in enumerate(read_journal(path), 1):
        try:
            yield Answer(**{**record, "earlier": tuple(record.get("earlier", ()))})
        except (TypeError, AttributeError) as error:
            raise UserError(f"line {number} of {path} is no answer; delete it and start again") from error


class AnswerStore:
    """The open store. Use it as a context; safe for threads.

    Args:
        path: JSONL file, made if it does not exist.
        known: further answers that need not be asked for.

    Raises:
        UserError: as `Journal` does.
    """

    def __init__(self, path: Path, known: Mapping[str, Answer] | None = None):
        self._journal = Journal(path)
        self._answers = {**(known or {}), **read_answers(path)}

    def get(self, key: str) -> Answer | None:
        return self._answers.get(key)

    def append(self, answer: Answer) -> None:
        """Returns when the answer is on the disk."""
        self._journal.append(asdict(answer))
        self._answers[answer.key] = _without_texts(answer)

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()


def merge_into(store: AnswerStore, sources: list[Path]) -> None:
    """Appends what `store` does not hold of other stores' files, and removes those."""
    for source in sources:
        for answer in _complete_answers(source):
            known = store.get(answer.key)
            if known is None or (answer.is_bought and not known.is_bought):
                store.append(answer)
        source.unlink()
        source.with_name(source.name + ".lock").unlink(missing_ok=True)
