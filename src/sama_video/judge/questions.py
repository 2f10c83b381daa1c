"""Questions: what is asked of which judge, what its answer depends on, and a quote of what many would cost."""

import collections
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..system.errors import UserError
from .answers import Answer
from .clips import MediaConfig, View, estimated_tokens
from .endpoint import check_seconds, endpoint_of
from .parsing import MalformedAnswerError, Scale, parse_blocks, parse_lines, parse_scores

UNREADABLE = "unreadable"
# An attempt that follows a malformed answer must not sample the same text again; repeats stay below the stride.
SEED_STRIDE = 1000
# Characters of an answer that are read and kept: 60,000 tokens, most of them a reasoning model's thoughts.
LONGEST_TEXT = 2**18


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The judge and how to reach it. The first block decides the answers, the second only how they are fetched.

    Args:
        model: name at the endpoint.
        temperature: of sampling, None for the endpoint's own; repeats at 0 would be copies of each other.
        max_tokens: of an answer; reasoning models need room for their thoughts.
        max_attempts: completions asked for before an answer counts as `parse_failed`.
        media: how clips are shown.
        base_url: of the endpoint, up to `/v1`.
        api_key_env: environment variable that holds the key; local servers need none.
        concurrency: requests in flight.
        timeout: seconds for a request, from its first byte to the answer's last.
        max_tries: requests sent before one is given up.
        base_delay, max_delay: seconds of waiting between tries, doubled from the first up to the second.
    """

    model: str
    temperature: float | None = 0.7
    max_tokens: int = 1024
    max_attempts: int = 3
    media: MediaConfig = field(default_factory=MediaConfig)

    base_url: str = field(repr=False)
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 300.0
    max_tries: int = 8
    base_delay: float = 0.5
    max_delay: float = 30.0

    def __post_init__(self):
        endpoint_of(self.base_url)
        check_seconds("timeout", self.timeout)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise UserError("`api_key_env` takes the name of an environment variable that holds the key, not the key")
        for name in ("max_attempts", "concurrency", "max_tries", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")

    @property
    def failures_to_stop(self) -> int:
        """Failed requests in a row, over all threads, after which the endpoint counts as down."""
        return max(20, self.max_tries * self.concurrency)

    @property
    def decisive(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "media": self.media.decisive,
        }


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request to a judge.

    Args:
        task: name and version, such as `appendix-b/1`.
        prompt: the text, filled in; empty if `system` holds all of it.
        system: text of a system message before it, if there is one.
        views: what is shown, in this order.
        dimensions: keys of the JSON object that the prompt asks for, besides `explanation`.
        blocks: if the object is nested, the dimensions of each of its parts, see `parse_blocks`.
        labels: if the prompt asks for lines instead, the label of each dimension, see `parse_lines`.
        scale: of the scores.
        repeat: which of several equal questions, from 0; below 1000.
    """

    task: str
    prompt: str
    views: tuple[View, ...]
    dimensions: tuple[str, ...]
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    scale: Scale = field(default_factory=Scale)
    repeat: int = 0
    system: str = ""

    def key(self, config: JudgeConfig) -> str:
        """sha256 of all that the answer depends on: a changed file, prompt, model or parameter is a new question."""
        decisive = {
            "task": self.task,
            "prompt": _hash(self.prompt),
            "looks": [view.identity for view in self.views],
            "judge": config.decisive,
            "repeat": self.repeat,
        }
        if self.system:
            decisive["system"] = _hash(self.system)
        return _hash(json.dumps(decisive, sort_keys=True))

    def messages(self, media: list[dict[str, Any]], *, prompt_first: bool) -> list[dict[str, Any]]:
        """Of a chat, with the message parts that show the media."""
        prompt = [{"type": "text", "text": self.prompt}] if self.prompt else []
        content = [*prompt, *media] if prompt_first else [*media, *prompt]
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def parse(self, text: str) -> dict[str, float]:
        """Raises MalformedAnswerError for an answer that is not what the prompt asks for."""
        if len(text) > LONGEST_TEXT:
            raise MalformedAnswerError(f"the answer has {len(text):,} characters, more than {LONGEST_TEXT:,}")
        if self.labels:
            return parse_lines(text, dict(zip(self.labels, self.dimensions, strict=True)), self.scale)
        if self.blocks:
            return parse_blocks(text, self.blocks, self.scale)
        return parse_scores(text, self.dimensions, text_keys=("explanation",), scale=self.scale)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class PairQuote:
    """A pair's kind ("video"; `UNREADABLE` for one that nothing is asked of), and its questions' tokens by key."""

    kind: str
    tokens: Mapping[str, int | None] = field(default_factory=dict)


def quote_pair(kind: str, questions: Iterable[Question], config: JudgeConfig) -> PairQuote:
    """What a pair's questions are and how many input tokens each takes."""
    tokens = {one.key(config): estimated_tokens(one.views, one.prompt, config.media) for one in questions}
    return PairQuote(kind, tokens)


@dataclass(frozen=True, kw_only=True)
class Quote:
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
        """A pair's requests follow each other, so few pairs do not use all of the concurrency."""
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


def sum_quotes(quotes: Iterable[PairQuote], known: Mapping[str, Answer], output_tokens: int) -> Quote:
    """The quote for all pairs.

    Args:
        quotes: of each pair; equal questions are asked once.
        known: answers that the store holds.
        output_tokens: of an answer.
    """
    counts: collections.Counter[str] = collections.Counter({"image": 0, "video": 0, UNREADABLE: 0})
    requests: set[str] = set()
    missing: list[int | None] = []
    for quote in quotes:
        counts[quote.kind] += 1
        new = quote.tokens.keys() - requests
        requests |= new
        missing += [quote.tokens[key] for key in new if key not in known or not known[key].is_bought]
    counted = [tokens for tokens in missing if tokens is not None]
    return Quote(
        pairs=dict(counts),
        answered=len(requests) - len(missing),
        to_ask=len(missing),
        input_tokens=sum(counted) if len(counted) == len(missing) else None,
        output_tokens=output_tokens * len(missing),
    )
