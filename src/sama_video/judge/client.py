"""Asking: a question -> the store's answer, or an OpenAI-compatible endpoint's, with everything that can go wrong.

Three loops, from the inside: tries of one request until the endpoint completes it (`_complete`), attempts until a
completion is what the prompt asks for (`Judge.answer`), and the caller's over its questions, in threads.

Tries are our own, since the client's library would count a body that is none as an answer, and knows neither when all
threads together should stop nor that a wait must end with the run.

Nothing that an endpoint sends is trusted: bodies end in time and in bytes (`endpoint.py`), values count only if they
are of the interface's types, and no text leaves without its secrets masked (`redact.py`). Exceptions of libraries are
not chained, since their texts and attributes hold what the server said.
"""

import email.utils
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from ..system.errors import UserError
from .answers import Answer, AnswerStore
from .endpoint import BrokenAnswerError, endpoint_of, open_client
from .parsing import MalformedAnswerError
from .questions import LONGEST_TEXT, SEED_STRIDE, JudgeConfig, Question
from .redact import one_line, redactor_of, whole_text

logger = logging.getLogger(__name__)

_RETRIABLE = {408, 409, 425, 429}
# Seconds: endpoints that ask for more than a day are not meant to be waited for, and timers overflow.
_LONGEST_WAIT = 86_400.0
# What servers without keys are given, since the client insists on one.
_NO_KEY = "none"
# No request has more; a larger count is nonsense.
_MOST_TOKENS = 10**9


class JudgeStoppedError(UserError):
    """No further question makes sense: wrong key, unknown model, endpoint down."""


@dataclass(frozen=True)
class _Completion:
    text: str
    refusal: str
    input_tokens: int
    output_tokens: int


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


def _key_of(config: JudgeConfig) -> str:
    """Raises UserError for a key that no header can hold."""
    key = os.environ.get(config.api_key_env) or _NO_KEY
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError(
            f"the key in the environment variable {config.api_key_env} holds spaces or characters that no key has; "
            "copy it again"
        )
    return key


class Judge:
    """Answers questions, from the store where it can. Safe for threads.

    Args:
        config: the judge.
        store: open store; every new answer is appended to it.
        wait: waits for so many seconds; by default until the run is stopped at the latest.

    Raises:
        UserError: if the openai package is missing, or the key is none.
    """

    def __init__(
        self,
        config: JudgeConfig,
        store: AnswerStore,
        wait: Callable[[float], object] | None = None,
    ):
        self.config = config
        self.store = store
        endpoint, key = endpoint_of(config.base_url), _key_of(config)
        self._shown_url = endpoint.shown
        self._redact = redactor_of([key, *endpoint.secrets])
        self._client = open_client(endpoint, key, config.timeout, self._redact)
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

    @property
    def stop_reason(self) -> str:
        """Why every further request raises JudgeStoppedError; empty as long as none does."""
        return self._stop_reason

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
            messages = question.messages(parts(), prompt_first=self.config.media.prompt_first)
            try:
                answer = self._kept(self._ask(key, question, messages))
            except JudgeStoppedError as error:
                self.stop(self._redact.sentence(str(error)))
                raise JudgeStoppedError(self._stop_reason) from None
            try:
                self.store.append(answer)
            except UserError as error:  # a full disk: nothing that is bought from here on would be kept
                self.stop(str(error))
                raise JudgeStoppedError(self._stop_reason) from error
            return answer

    def _kept(self, answer: Answer) -> Answer:
        """The answer as it may be written to a file."""
        return replace(
            answer,
            reason=self._redact.sentence(answer.reason),
            text=whole_text(self._redact(answer.text)),
            earlier=tuple(whole_text(self._redact(text)) for text in answer.earlier),
        )

    def _ask(self, key: str, question: Question, messages: list[dict[str, Any]]) -> Answer:
        """Attempts until one is what the prompt asks for."""
        completions: list[_Completion] = []

        def answer(status: Literal["ok", "parse_failed", "refused", "error"], **fields: Any) -> Answer:
            *earlier, text = [one.text[:LONGEST_TEXT] for one in completions] or [""]
            return Answer(
                key=key,
                task=question.task,
                status=status,
                text=text,
                earlier=tuple(earlier),
                attempts=len(completions),
                input_tokens=sum(one.input_tokens for one in completions),
                output_tokens=sum(one.output_tokens for one in completions),
                **fields,
            )

        reason = ""
        for attempt in range(self.config.max_attempts):
            try:
                completion = self._complete(messages, seed=question.repeat + SEED_STRIDE * attempt)
            except _FailedTryError as failure:
                return answer("error", reason=str(failure))
            completions.append(completion)
            if completion.refusal:
                return answer("refused", reason=completion.refusal)
            try:
                return answer("ok", scores=question.parse(completion.text))
            except MalformedAnswerError as error:
                reason = str(error)
        return answer("parse_failed", reason=reason)

    def _complete(self, messages: list[dict[str, Any]], seed: int) -> _Completion:
        """Tries until the endpoint completes the request.

        Raises:
            _FailedTryError: the last one, if this request will not be completed.
            JudgeStoppedError: if no request will.
        """
        for number in range(1, self.config.max_tries + 1):
            if self._stopped.is_set():
                raise JudgeStoppedError(self._stop_reason)
            try:
                completion = self._request(messages, seed)
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
        level = logging.WARNING if failures == 1 else logging.DEBUG
        logger.log(level, "%s: %s", self._shown_url, self._redact.sentence(str(failure)))
        if failures >= self.config.failures_to_stop:
            raise JudgeStoppedError(
                f"{self._shown_url} completed none of the last {failures} requests ({_short(failure)}); everything "
                "answered so far is kept: see to the endpoint and start the same command again to resume"
            )

    def _delay(self, failure: _FailedTryError, number: int) -> float:
        """Seconds before the next try: as the endpoint says, else exponential backoff with full jitter."""
        if failure.retry_after is not None:
            if failure.retry_after > self.config.max_delay:
                logger.warning("%s asks to wait %.0f s", self._shown_url, failure.retry_after)
            return failure.retry_after
        return random.uniform(0, min(self.config.max_delay, self.config.base_delay * 2 ** (number - 1)))

    def _request(self, messages: list[dict[str, Any]], seed: int) -> _Completion:
        """One request.

        Raises:
            _FailedTryError: if it was not completed.
            JudgeStoppedError: if the key or the model is refused, or the endpoint is elsewhere.
        """
        import openai

        temperature = self.config.temperature
        try:
            # Raw: the client's own reading of a body does not check its types.
            response = self._client.chat.completions.with_raw_response.create(
                model=self.config.model,
                messages=messages,
                temperature=openai.omit if temperature is None else temperature,
                max_tokens=self.config.max_tokens,
                seed=seed,
            )
        except openai.APIStatusError as error:
            raise self._failure_of(error) from None
        except BrokenAnswerError as error:  # no end, in time or in bytes
            raise _FailedTryError(str(error)) from None
        except openai.APIError as error:  # no connection, no HTTP
            raise _FailedTryError(f"{type(error).__name__}: {error.__cause__ or error}") from None
        except Exception as error:  # what no library foresaw, such as a prompt that no message can hold
            raise _FailedTryError(f"the request failed ({type(error).__name__}: {error})", may_pass=False) from None
        return _completion_of(response.http_response.content)

    def _failure_of(self, error: Any) -> Exception:
        """What a status other than 200 to 299 means: the end of the run, of the request, or of this try."""
        status, config, said = error.status_code, self.config, _short(error)
        if 300 <= status < 400:
            return JudgeStoppedError(
                f"{self._shown_url} sends every request on{_target_of(error.response)} (status {status}), and the "
                "videos are not sent where they were not meant to go; name the right address with `base_url`"
            )
        if status in (401, 403):
            return JudgeStoppedError(
                f"{self._shown_url} refuses the key ({said}); put a valid one into the environment variable "
                f"{config.api_key_env} or name another one with `api_key_env`"
            )
        if status == 404:
            return JudgeStoppedError(
                f"{self._shown_url} knows no model {config.model!r} or is no OpenAI-compatible endpoint ({said}); "
                "check `model`, and `base_url`, which usually ends in /v1"
            )
        may_pass = status in _RETRIABLE or status >= 500
        return _FailedTryError(str(error), may_pass=may_pass, retry_after=_retry_after(error.response.headers))


def _short(error: Exception) -> str:
    """What an error says, without crowding out the sentence around it."""
    said = str(error)
    return said if len(said) <= 200 else f"{said[:200]} …"


def _target_of(response: Any) -> str:
    """The scheme and host that a redirection names; its path and query may hold anything."""
    try:
        target = urlsplit(response.headers.get("location", ""))
        return f" to {target.scheme}://{target.hostname}" if target.scheme and target.hostname else ""
    except ValueError:
        return ""


# A completion's body


def _completion_of(body: bytes) -> _Completion:
    """Raises _FailedTryError for a body that is no chat completion; gateways send HTML or errors with status 200."""
    try:
        response = json.loads(body.decode("utf-8"))
        choice = response["choices"][0]
        message = choice["message"]
        text = _text_of(message.get("content"))
        refusal = message.get("refusal")
    # Also a number of thousands of digits, and nesting without end.
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        begins = one_line(body[:200].decode("utf-8", "replace"))
        raise _FailedTryError(f"the body is no chat completion ({type(error).__name__}): {begins!r}") from None
    refusal = refusal if isinstance(refusal, str) else ""
    if choice.get("finish_reason") == "content_filter":
        refusal = refusal or "the endpoint's content filter"
    usage = response.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return _Completion(text, refusal, _count_of(usage, "prompt_tokens"), _count_of(usage, "completion_tokens"))


def _text_of(content: Any) -> str:
    """The content of a message: a text, none, or a list of parts whose texts are joined.

    Raises:
        TypeError: for anything else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    raise TypeError(f"content is a {type(content).__name__}")


def _count_of(usage: dict[str, Any], name: str) -> int:
    """Tokens, if the endpoint gives a number of them."""
    count = usage.get(name)
    return count if type(count) is int and 0 <= count <= _MOST_TOKENS else 0


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError):
            return None
    return min(max(0.0, seconds), _LONGEST_WAIT)
