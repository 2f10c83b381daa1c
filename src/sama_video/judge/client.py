"""Asking: a question -> the store's answer, or an OpenAI-compatible endpoint's, with everything that can go wrong.

Three loops, from the inside: tries of one request until the endpoint completes it (`_complete`), attempts until a
completion is what the prompt asks for (`Judge.answer`), and the caller's over its questions, in threads.
"""

import email.utils
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UserError
from .media import Look, MediaConfig
from .parsing import MalformedAnswerError, Scale, parse_blocks, parse_lines, parse_scores
from .store import Answer, AnswerStore

logger = logging.getLogger(__name__)

RETRIABLE = {408, 409, 425, 429}
# An attempt that follows a malformed answer must not sample the same text again; repeats stay below the stride.
SEED_STRIDE = 1000
# Seconds: endpoints that ask for more than a day are not meant to be waited for, and timers overflow.
LONGEST_WAIT = 86_400.0


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
        timeout: seconds for a request.
        max_tries: requests sent before one is given up.
        base_delay, max_delay: seconds of waiting between tries, doubled from the first up to the second.
    """

    model: str
    temperature: float | None = 0.7
    max_tokens: int = 1024
    max_attempts: int = 3
    media: MediaConfig = field(default_factory=MediaConfig)

    base_url: str
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 300.0
    max_tries: int = 8
    base_delay: float = 0.5
    max_delay: float = 30.0

    def __post_init__(self):
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(f"the base URL must begin with http:// or https://, got {self.base_url!r}")
        for name in ("max_attempts", "concurrency", "max_tries"):
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
        prompt: the text, filled in.
        looks: what is shown, in this order.
        score_keys, text_keys: of the JSON object that the prompt asks for.
        blocks: if the object is nested, the score keys of each of its parts, see `parse_blocks`.
        labels: if the prompt asks for lines instead, the label of each score, see `parse_lines`.
        low, high: the scale.
        nothing: score that all keys together may have below the scale, where nothing was edited.
        repeat: which of several equal questions, from 0; below 1000.
    """

    task: str
    prompt: str
    looks: tuple[Look, ...]
    score_keys: tuple[str, ...]
    text_keys: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    low: float = 1
    high: float = 10
    nothing: float | None = None
    repeat: int = 0

    def key(self, config: JudgeConfig) -> str:
        """sha256 of all that the answer depends on: a changed file, prompt, model or parameter is a new question."""
        facts = {
            "task": self.task,
            "prompt": hashlib.sha256(self.prompt.encode()).hexdigest(),
            "looks": [look.identity for look in self.looks],
            "judge": config.decisive,
            "repeat": self.repeat,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def parse(self, text: str) -> dict[str, float]:
        """Raises MalformedAnswerError for an answer that is not what the prompt asks for."""
        scale = Scale(self.low, self.high, self.nothing)
        if self.labels:
            return parse_lines(text, dict(zip(self.labels, self.score_keys, strict=True)), scale)
        if self.blocks:
            return parse_blocks(text, self.blocks, scale)
        return parse_scores(text, self.score_keys, text_keys=self.text_keys, scale=scale)


class JudgeStoppedError(UserError):
    """No further question makes sense: wrong key, unknown model, endpoint down."""


@dataclass(frozen=True)
class _Completion:
    text: str
    refusal: str
    input_tokens: int
    output_tokens: int


@dataclass
class _Bill:
    """What a question has cost so far; fields as in `Answer`."""

    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, completion: _Completion) -> None:
        self.attempts += 1
        self.input_tokens += completion.input_tokens
        self.output_tokens += completion.output_tokens


class _FailedTryError(Exception):
    """One request failed.

    Args:
        reason: what happened.
        may_pass: whether the same request may succeed later.
        retry_after: seconds that the endpoint asks to wait.
    """

    def __init__(self, reason: str, *, may_pass: bool = True, retry_after: float | None = None):
        super().__init__(reason)
        self.may_pass = may_pass
        self.retry_after = retry_after


def _open_client(config: JudgeConfig) -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError("asking a judge needs the openai package: pip install 'sama-video[judge]'") from error
    # Servers without keys accept any, but the client insists on one. Retries are ours: see `_complete`.
    key = os.environ.get(config.api_key_env) or "none"
    return openai.OpenAI(base_url=config.base_url, api_key=key, timeout=config.timeout, max_retries=0)


class Judge:
    """Answers questions, from the store where it can. Safe for threads.

    Args:
        config: the judge.
        store: open store; every new answer is appended to it.
        wait: waits for so many seconds; by default until the run is stopped at the latest.

    Raises:
        UserError: if the openai package is missing.
    """

    def __init__(
        self,
        config: JudgeConfig,
        store: AnswerStore,
        wait: Callable[[float], object] | None = None,
    ):
        self.config = config
        self.store = store
        self._client = _open_client(config)
        self._failures_in_a_row = 0
        self._counting = threading.Lock()
        # Equal rows of a manifest ask equal questions: the second waits for the first one's answer.
        self._asking = [threading.Lock() for _ in range(1024)]
        self._stopped = threading.Event()
        self._stop_reason = ""
        self._wait = wait or self._stopped.wait

    def stop(self, reason: str = "the run was stopped; everything answered so far is kept") -> None:
        """Lets requests in flight end; every further one raises JudgeStoppedError with the first reason given."""
        with self._counting:
            if not self._stopped.is_set():
                self._stop_reason = reason
                self._stopped.set()

    def answer(self, question: Question, parts: Callable[[], list[dict[str, Any]]]) -> Answer:
        """The answer, which is then in the store.

        Args:
            question: what to ask.
            parts: makes the message parts that show the media; called only if the store has no answer.

        Raises:
            JudgeStoppedError: if no further question makes sense.
        """
        key = question.key(self.config)
        with self._asking[int(key[:4], 16) % len(self._asking)]:
            known = self.store.get(key)
            if known is not None and known.is_bought:
                return known
            prompt = {"type": "text", "text": question.prompt}
            content = [prompt, *parts()] if self.config.media.prompt_first else [*parts(), prompt]
            try:
                answer = self._ask(key, question, content)
            except JudgeStoppedError as error:
                self.stop(str(error))
                raise JudgeStoppedError(self._stop_reason) from error
            self.store.append(answer)
            return answer

    def _ask(self, key: str, question: Question, content: list[dict[str, Any]]) -> Answer:
        """Attempts until one is what the prompt asks for."""
        bill = _Bill()
        text = reason = ""
        for attempt in range(self.config.max_attempts):
            try:
                completion = self._complete(content, seed=question.repeat + SEED_STRIDE * attempt)
            except _FailedTryError as failure:
                return Answer(key=key, task=question.task, status="error", reason=str(failure), **asdict(bill))
            bill.add(completion)
            text, reason = completion.text, completion.refusal
            if completion.refusal:
                return Answer(key=key, task=question.task, status="refused", reason=reason, text=text, **asdict(bill))
            try:
                scores = question.parse(text)
            except MalformedAnswerError as error:
                reason = str(error)
                continue
            return Answer(key=key, task=question.task, status="ok", scores=scores, text=text, **asdict(bill))
        return Answer(key=key, task=question.task, status="parse_failed", reason=reason, text=text, **asdict(bill))

    def _complete(self, content: list[dict[str, Any]], seed: int) -> _Completion:
        """Tries until the endpoint completes the request.

        Raises:
            _FailedTryError: the last one, if this request will not be completed.
            JudgeStoppedError: if no request will.
        """
        for number in range(1, self.config.max_tries + 1):
            if self._stopped.is_set():
                raise JudgeStoppedError(self._stop_reason)
            try:
                completion = self._request(content, seed)
            except _FailedTryError as failure:
                self._count(failure)
                if not failure.may_pass or number == self.config.max_tries:
                    raise
                self._wait(self._delay(failure, number))
            else:
                with self._counting:
                    self._failures_in_a_row = 0
                return completion
        raise AssertionError("max_tries is at least 1")

    def _count(self, failure: _FailedTryError) -> None:
        with self._counting:
            self._failures_in_a_row += 1
            failures = self._failures_in_a_row
        # One line for each bad spell, not one for each request in it.
        logger.log(logging.WARNING if failures == 1 else logging.DEBUG, "%s: %s", self.config.base_url, failure)
        if failures >= self.config.failures_to_stop:
            raise JudgeStoppedError(
                f"{self.config.base_url} completed none of the last {failures} requests ({failure}); everything "
                "answered so far is kept: mend the endpoint and start the same command again to go on"
            )

    def _delay(self, failure: _FailedTryError, number: int) -> float:
        """Seconds before the next try: as the endpoint says, else exponential backoff with full jitter."""
        if failure.retry_after is not None:
            if failure.retry_after > self.config.max_delay:
                logger.warning("%s asks to wait %.0f s", self.config.base_url, failure.retry_after)
            return failure.retry_after
        return random.uniform(0, min(self.config.max_delay, self.config.base_delay * 2 ** (number - 1)))

    def _request(self, content: list[dict[str, Any]], seed: int) -> _Completion:
        """One request.

        Raises:
            _FailedTryError: if it was not completed.
            JudgeStoppedError: if the key or the model is refused.
        """
        import openai

        temperature = self.config.temperature
        try:
            response = self._client.chat.completions.create(
                model=self.config.model,
                messages=[{"role": "user", "content": content}],
                temperature=openai.omit if temperature is None else temperature,
                max_tokens=self.config.max_tokens,
                seed=seed,
            )
        except openai.APIStatusError as error:
            raise self._failure_of(error) from error
        except (openai.APIError, ValueError) as error:  # no connection, a timeout; ValueError for half a JSON body
            raise _FailedTryError(f"{type(error).__name__}: {error.__cause__ or error}") from error
        return _completion_of(response)

    def _failure_of(self, error: Any) -> Exception:
        """What a status above 399 means: the end of the run, of the request, or of this try."""
        status, config = error.status_code, self.config
        if status in (401, 403):
            return JudgeStoppedError(
                f"{config.base_url} refuses the key ({error}); put a valid one into the environment variable "
                f"{config.api_key_env} or name another one with --api-key-env"
            )
        if status == 404:
            return JudgeStoppedError(
                f"{config.base_url} knows no model {config.model!r} or is no OpenAI-compatible endpoint ({error}); "
                "check --model, and --base-url, which usually ends in /v1"
            )
        may_pass = status in RETRIABLE or status >= 500
        return _FailedTryError(str(error), may_pass=may_pass, retry_after=_retry_after(error.response.headers))


def _completion_of(response: Any) -> _Completion:
    """Raises _FailedTryError for a body that is no chat completion; gateways send HTML or errors with status 200."""
    try:
        choice = response.choices[0]
        text, refusal = choice.message.content or "", getattr(choice.message, "refusal", None) or ""
    except (AttributeError, IndexError, TypeError) as error:
        raise _FailedTryError(f"the body is no chat completion: {str(response)[:200]!r}") from error
    if choice.finish_reason == "content_filter":
        refusal = refusal or "the endpoint's content filter"
    usage = response.usage
    return _Completion(
        text, refusal, usage.prompt_tokens if usage else 0, (usage.completion_tokens or 0) if usage else 0
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return min(max(0.0, float(value)), LONGEST_WAIT)
    except ValueError:
        pass
    try:
        return min(max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()), LONGEST_WAIT)
    except ValueError:
        return None
