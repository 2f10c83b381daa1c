"""A row of a manifest -> its scores: each prompt, each turn, averaged. The same function locally and under Ray."""

import collections
import contextlib
import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..data.manifest import Row, local_file
from ..judge.answers import Answer
from ..judge.client import Judge, JudgeStoppedError
from ..judge.clips import View, encode, shown_parts, views_of
from ..judge.questions import Question
from ..judge.redact import reason_of
from ..system.errors import UserError
from ..system.workers import in_threads
from .prompts import TASK, Prompt, prompts_for
from .rules import CurationConfig

# Averages of a few turns: far below any difference between scores, far above the error of a sum.
_DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the judge said of a pair.

    Args:
        kind: `image` or `video`; empty for a pair that cannot be read.
        averages: by dimension, 1 to 10; None where too many turns failed.
        turns: by dimension, one score per turn; None for a turn that failed.
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
    """A row's clips as a judge sees them, and its instruction."""

    source: View
    target: View
    instruction: str

    @property
    def kind(self) -> str:
        return "image" if self.source.is_image else "video"

    def questions(self, turns: int) -> Iterator[tuple[Prompt, Question]]:
        for prompt in prompts_for(is_image=self.source.is_image):
            question = Question(
                task=TASK,
                prompt=prompt.filled(self.instruction),
                views=(self.target, self.source) if prompt.edited_first else (self.source, self.target),
                dimensions=prompt.answer_keys,
            )
            for turn in range(turns):
                yield prompt, replace(question, repeat=turn)


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
            before, after = views_of([source, target], config.judge.media)
            yield Pair(source=before, target=after, instruction=str(row.prompt))
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
    media, encode_once = config.judge.media, functools.cache(encode)
    return [
        (prompt, judge.answer(question, functools.partial(shown_parts, question.views, media, encode_once)))
        for prompt, question in pair.questions(config.turns)
    ]


def average_answers(kind: str, answers: list[tuple[Prompt, Answer]], config: CurationConfig) -> Scored:
    """What the answers to all questions about a pair come to; turns without a score are left out, not replaced."""
    turns: dict[str, list[float | None]] = {}
    for prompt, answer in answers:
        for dimension, key in zip(prompt.dimensions, prompt.answer_keys, strict=True):
            turns.setdefault(dimension, []).append(answer.scores[key] if answer.scores else None)
    averages = {dimension: _average(scores, config.min_turns) for dimension, scores in turns.items()}
    failures = collections.Counter(answer.status for _, answer in answers if answer.status != "ok")
    return Scored(kind=kind, averages=averages, turns=turns, failures=dict(sorted(failures.items())))


def _average(scores: list[float | None], min_turns: int) -> float | None:
    given = [score for score in scores if score is not None]
    return round(math.fsum(given) / len(given), _DECIMALS) if len(given) >= min_turns else None


def score_rows(rows: Iterable[Row], judge: Judge, config: CurationConfig) -> Iterator[Scored]:
    """Scores in the rows' order, `concurrency` rows at a time.

    A row's questions follow each other, so a server that caches prefixes has seen their media before.

    Raises:
        JudgeStoppedError: if no further question makes sense.
    """
    return in_threads(lambda row: score_row(row, judge, config), rows, config.judge.concurrency, stop=judge.stop)
