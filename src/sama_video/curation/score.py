"""A row of a manifest -> its scores: each prompt, each turn, averaged. The same function locally and under Ray."""

import collections
import contextlib
import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..data.manifest import Row, local_file
from ..judge.answers import Answer
from ..judge.client import Judge, JudgeStoppedError, Question
from ..judge.clips import Look, encode, look, message_parts
from ..judge.redact import reason_of
from ..system.errors import UserError
from ..system.workers import in_threads
from .prompts import TASK, Prompt, prompts_for
from .rules import CurationConfig

# Averages of a few turns: far below any difference between scores, far above the error of a sum.
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the judge said of a pair.

    Args:
        kind: `image` or `video`; empty for a pair that cannot be read.
        averages: by score, 1 to 10; None where too many turns failed.
        turns: by score, one value a turn; None for a turn that failed.
        failures: number of failed turns by the status of their answers.
        unreadable: why the pair was not judged.
    """

    kind: str = ""
    averages: dict[str, float | None] = field(default_factory=dict)
    turns: dict[str, list[float | None]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    unreadable: str = ""


@dataclass(frozen=True)
class Pair:
    """A row's original and edited clip, and its instruction."""

    original: Look
    edited: Look
    instruction: str

    @property
    def kind(self) -> str:
        return "image" if self.original.is_image else "video"

    def shown_for(self, prompt: Prompt) -> tuple[Look, Look]:
        return (self.edited, self.original) if prompt.edited_first else (self.original, self.edited)

    def questions(self, turns: int) -> Iterator[tuple[Prompt, Question]]:
        for prompt in prompts_for(is_image=self.original.is_image):
            text = prompt.filled(self.instruction)
            for turn in range(turns):
                yield (
                    prompt,
                    Question(
                        task=TASK,
                        prompt=text,
                        looks=self.shown_for(prompt),
                        score_keys=prompt.score_keys,
                        text_keys=("explanation",),
                        repeat=turn,
                    ),
                )


@contextlib.contextmanager
def opened_pair(row: Row, config: CurationConfig) -> Iterator[Pair]:
    """The row's files, local for the time of the context.

    Raises:
        UserError: for an empty field or a file that cannot be read.
    """
    for name in ("src_video", "tgt_video", "prompt"):
        if not getattr(row, name):
            raise UserError(f"the row has no {name}")
    with local_file(str(row.src_video)) as source, local_file(str(row.tgt_video)) as target:
        try:
            original, edited = look([source, target], config.judge.media)
            yield Pair(original, edited, str(row.prompt))
        except JudgeStoppedError:
            raise
        except UserError as error:  # name what the manifest names, not the copy of a remote file
            message = str(error).replace(str(source), str(row.src_video)).replace(str(target), str(row.tgt_video))
            raise UserError(message) from error


def score_row(row: Row, judge: Judge, config: CurationConfig) -> Scored:
    """Asks what the store does not know yet.

    Raises:
        JudgeStoppedError: if no further question makes sense.
    """
    try:
        with opened_pair(row, config) as pair:
            return average_answers(pair.kind, _answers(pair, judge, config), config)
    except JudgeStoppedError:
        raise
    except Exception as error:  # one pair that cannot be judged does not stop the others
        return Scored(unreadable=reason_of(error))


def _answers(pair: Pair, judge: Judge, config: CurationConfig) -> list[tuple[Prompt, Answer]]:
    encoded = functools.cache(lambda one: encode(one, config.judge.media))

    def parts_of(question: Question) -> list[dict[str, Any]]:
        return message_parts([encoded(one) for one in question.looks])

    return [
        (prompt, judge.answer(question, functools.partial(parts_of, question)))
        for prompt, question in pair.questions(config.turns)
    ]


def average_answers(kind: str, answers: list[tuple[Prompt, Answer]], config: CurationConfig) -> Scored:
    """What the answers to all questions about a pair come to; turns without a score are left out, not replaced."""
    turns: dict[str, list[float | None]] = {}
    for prompt, answer in answers:
        for score, key in zip(prompt.scores, prompt.score_keys, strict=True):
            turns.setdefault(score, []).append(answer.scores[key] if answer.scores else None)
    averages = {score: _average(values, config.min_turns) for score, values in turns.items()}
    failures = collections.Counter(answer.status for _, answer in answers if answer.status != "ok")
    return Scored(kind=kind, averages=averages, turns=turns, failures=dict(sorted(failures.items())))


def _average(values: list[float | None], min_turns: int) -> float | None:
    given = [value for value in values if value is not None]
    return round(math.fsum(given) / len(given), DECIMALS) if len(given) >= min_turns else None


def score_rows(rows: Iterable[Row], judge: Judge, config: CurationConfig) -> Iterator[Scored]:
    """Scores in the rows' order, `concurrency` rows at a time.

    A row's questions follow each other, so a server that caches prefixes has seen their media before.

    Raises:
        JudgeStoppedError: if no further question makes sense.
    """
    return in_threads(lambda row: score_row(row, judge, config), rows, config.judge.concurrency, stop=judge.stop)
