"""The filter's two flows: `curate` (manifest -> judge -> kept and rejected pairs) and `plan` (what that would cost)."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.manifest import Row
from ..errors import UserError
from ..judge.client import Judge
from ..judge.media import estimated_tokens
from ..judge.store import Answer, AnswerStore, read_answers
from .config import CurationConfig
from .report import Report, write_results
from .score import Progress, Scored, in_threads, opened_pair, score_rows

ANSWERS = "answers.jsonl"
# The JSON object that the prompts ask for, with an explanation of two sentences.
OUTPUT_TOKENS = 100


def curate(rows: Sequence[Row], out: Path, config: CurationConfig, progress: Progress = lambda *_: None) -> Report:
    """Judges every row and selects (Appendix B). Interrupted, it goes on where it stopped: no answer is bought twice.

    Args:
        rows: of a manifest.
        out: folder of the answers and of the results, see `write_results`.
        config: judge, turns, thresholds.
        progress: called as (phase, done, of) with numbers of rows.

    Raises:
        UserError: if the endpoint refuses key or model or is down, or another run writes to `out`. Answers are kept.
    """
    with AnswerStore(out / ANSWERS) as store:
        scored: list[Scored] = []
        for one in score_rows(rows, Judge(config.judge, store), config):
            scored.append(one)
            progress("judging", len(scored), len(rows))
    return write_results(rows, scored, config, out)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would ask.

    Args:
        images, videos, unreadable: numbers of pairs.
        answered, to_ask: numbers of requests.
        input_tokens: of the requests to ask, None where the server chooses the frames. See `estimated_tokens`.
        output_tokens: of the requests to ask, `OUTPUT_TOKENS` each.
    """

    images: int
    videos: int
    unreadable: int
    answered: int
    to_ask: int
    input_tokens: int | None
    output_tokens: int

    def cost(self, price_in: float, price_out: float) -> float | None:
        """At prices for a million tokens."""
        if self.input_tokens is None:
            return None
        return (self.input_tokens * price_in + self.output_tokens * price_out) / 1e6

    def seconds(self, concurrency: int, seconds_per_request: float) -> float:
        """A row's requests follow each other, so few rows do not fill many places."""
        return self.to_ask * seconds_per_request / max(1, min(concurrency, self.images + self.videos))

    def lines(self, price_in: float, price_out: float, concurrency: int, seconds_per_request: float) -> list[str]:
        """For people."""
        hours = self.seconds(concurrency, seconds_per_request) / 3600
        cost = self.cost(price_in, price_out)
        tokens = "unknown, the server chooses the frames" if self.input_tokens is None else f"{self.input_tokens:,}"
        return [
            f"pairs: {self.images} images, {self.videos} videos, {self.unreadable} unreadable",
            f"requests: {self.answered} answered already, {self.to_ask} to ask",
            f"input tokens, about: {tokens}",
            f"output tokens, about: {self.output_tokens:,}",
            f"cost at {price_in:g} and {price_out:g} a million: {'unknown' if cost is None else f'{cost:.2f}'}",
            f"time at {seconds_per_request:g} s a request, {concurrency} at a time: {hours:.2f} h",
        ]


@dataclass(frozen=True)
class _RowPlan:
    """A row's kind, and the input tokens of each of its requests by key."""

    kind: str
    tokens: dict[str, int | None]


def plan(rows: Sequence[Row], out: Path, config: CurationConfig) -> Plan:
    """What `curate` would ask; asks nothing and writes nothing, but reads every file to know its hash."""
    known = read_answers(out / ANSWERS)
    kinds: collections.Counter[str] = collections.Counter()
    requests: set[str] = set()
    missing: list[int | None] = []
    for row_plan in in_threads(lambda row: _row_plan(row, config), rows, config.judge.concurrency):
        kinds[row_plan.kind] += 1
        new = row_plan.tokens.keys() - requests
        requests |= new
        missing += [row_plan.tokens[key] for key in new if not _is_bought(known.get(key))]
    counted = [tokens for tokens in missing if tokens is not None]
    return Plan(
        images=kinds["image"],
        videos=kinds["video"],
        unreadable=kinds["unreadable"],
        answered=len(requests) - len(missing),
        to_ask=len(missing),
        input_tokens=sum(counted) if len(counted) == len(missing) else None,
        output_tokens=OUTPUT_TOKENS * len(missing),
    )


def _is_bought(answer: Answer | None) -> bool:
    return answer is not None and answer.is_bought


def _row_plan(row: Row, config: CurationConfig) -> _RowPlan:
    try:
        with opened_pair(row, config) as pair:
            tokens = {
                question.key(config.judge): estimated_tokens(question.looks, question.prompt)
                for _, question in pair.questions(config.turns)
            }
            return _RowPlan(pair.kind, tokens)
    except UserError:
        return _RowPlan("unreadable", {})
