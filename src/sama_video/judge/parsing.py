"""A judge's text -> its scores, strictly: a score is read where the prompt asked for it, and never guessed."""

import json
import re
from collections.abc import Collection
from typing import Any, NoReturn


class MalformedAnswerError(ValueError):
    """The text is not what the prompt asked for; the message says why."""


def parse_scores(
    text: str, score_keys: Collection[str], *, text_keys: Collection[str] = (), low: float = 1, high: float = 10
) -> dict[str, float]:
    """The scores of an answer that holds one JSON object of exactly `score_keys` and `text_keys`.

    Mended, since they leave no doubt: reasoning in `<think>` tags, code fences or words around the object, trailing
    commas, line breaks inside strings. Anything else is malformed: two objects, other keys, scores that are no numbers.

    Raises:
        MalformedAnswerError: with the reason.
    """
    found = _only_object(_without_reasoning(text))
    expected = {*score_keys, *text_keys}
    if found.keys() != expected:
        raise MalformedAnswerError(f"expected the keys {sorted(expected)}, got {sorted(found)}")
    for key in text_keys:
        if not isinstance(found[key], str):
            raise MalformedAnswerError(f"{key} is not a text")
    return {key: _score(key, found[key], low, high) for key in score_keys}


def _without_reasoning(text: str) -> str:
    # Some servers strip the opening tag, so everything up to the last closing one is reasoning.
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:
        raise MalformedAnswerError("the reasoning never ends")
    return answer


def _only_object(text: str) -> dict[str, Any]:
    text = _without_trailing_commas(text)
    start = text.find("{")
    if start < 0:
        raise MalformedAnswerError("no JSON object")
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    try:
        found, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise MalformedAnswerError(f"not JSON ({error})") from error
    if "{" in text[end:]:
        raise MalformedAnswerError("more than one JSON object")
    return found


def _without_trailing_commas(text: str) -> str:
    """Drops commas before a closing bracket, outside of strings."""
    return re.sub(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', lambda match: match[0] if match[0] != "," else "", text)


def _no_constant(name: str) -> NoReturn:
    raise MalformedAnswerError(f"{name} is not a score")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedAnswerError("a key appears twice")
    return found


def _score(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MalformedAnswerError(f"{key} is not a number: {value!r}")
    if not low <= value <= high:
        raise MalformedAnswerError(f"{key} is {value}, outside {low} to {high}")
    return float(value)
