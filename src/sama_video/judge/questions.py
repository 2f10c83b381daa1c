"""Many questions, planned: what there is to ask and what it would cost."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .answers import Answer
from .client import JudgeConfig, Question
from .clips import estimated_tokens

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class PairPlan:
    """A pair's kind ("video"; `UNREADABLE` for one that nothing is asked of), and its questions' tokens by key."""

    kind: str
    tokens: Mapping[str, int | None] = field(default_factory=dict)


def plan_pair(kind: str, questions: Iterable[Question], config: JudgeConfig) -> PairPlan:
    """What a pair's questions are and how many input tokens each takes."""
    return PairPlan(
        kind,
        {
            question.key(config): estimated_tokens(question.looks, question.prompt, config.media)
            for question in questions
        },
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would ask.

    Args:
        pairs: number of pairs by kind.
        answered, to_ask: numbers of requests.
        input_tokens: of the requests to ask, None where the server chooses the frames. See `estimated_tokens`.
        output_tokens: of the requests to ask.
    """

    pairs: Mapping[str, int]
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
        """A pair's requests follow each other, so few pairs do not fill many places."""
        readable = sum(number for kind, number in self.pairs.items() if kind != UNREADABLE)
        return self.to_ask * seconds_per_request / max(1, min(concurrency, readable))

    def lines(self, price_in: float, price_out: float, concurrency: int, seconds_per_request: float) -> list[str]:
        """For people."""
        hours = self.seconds(concurrency, seconds_per_request) / 3600
        cost = self.cost(price_in, price_out)
        tokens = "unknown, the server chooses the frames" if self.input_tokens is None else f"{self.input_tokens:,}"
        return [
            f"pairs: {', '.join(f'{kind} {number}' for kind, number in self.pairs.items())}",
            f"requests: {self.answered} answered already, {self.to_ask} to ask",
            f"input tokens, about: {tokens}",
            f"output tokens, about: {self.output_tokens:,}",
            f"cost at {price_in:g} and {price_out:g} a million: {'unknown' if cost is None else f'{cost:.2f}'}",
            f"time at {seconds_per_request:g} s a request, {concurrency} at a time: {hours:.2f} h",
        ]


def sum_plans(
    plans: Iterable[PairPlan], known: Mapping[str, Answer], *, kinds: Sequence[str], output_tokens: int
) -> Plan:
    """The plan of all pairs.

    Args:
        plans: of each pair; equal questions are asked once.
        known: answers that the store holds.
        kinds: of pairs, in the order of the report.
        output_tokens: of an answer.
    """
    counts = collections.Counter(dict.fromkeys(kinds, 0))
    requests: set[str] = set()
    missing: list[int | None] = []
    for plan in plans:
        counts[plan.kind] += 1
        new = plan.tokens.keys() - requests
        requests |= new
        missing += [plan.tokens[key] for key in new if not _is_bought(known.get(key))]
    counted = [tokens for tokens in missing if tokens is not None]
    return Plan(
        pairs=dict(counts),
        answered=len(requests) - len(missing),
        to_ask=len(missing),
        input_tokens=sum(counted) if len(counted) == len(missing) else None,
        output_tokens=output_tokens * len(missing),
    )


def _is_bought(answer: Answer | None) -> bool:
    return answer is not None and answer.is_bought
