"""A judge's text -> its scores, strictly: a score is read where the prompt asked for it, and never guessed.

Texts are a stranger's: whatever they hold, reading one takes time in proportion to its length and ends in scores or in
`MalformedAnswerError`.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn


class MalformedAnswerError(ValueError):
    """The text is not what the prompt asked for; the message says why."""


@dataclass(frozen=True)
class Scale:
    """Scores from `low` to `high`, or `nothing` in all dimensions together, where nothing was edited."""

    low: float = 1
    high: float = 10
    nothing: float | None = None

    def check(self, scores: dict[str, float]) -> dict[str, float]:
        """The scores. Raises MalformedAnswerError if one lies outside."""
        if not all(score == self.nothing for score in scores.values()):
            for key, score in scores.items():
                if not self.low <= score <= self.high:
                    raise MalformedAnswerError(f"{key} is {score}, outside {self.low:g} to {self.high:g}")
        return {key: float(score) for key, score in scores.items()}


def parse_scores(
    text: str, dimensions: Collection[str], *, text_keys: Collection[str] = (), scale: Scale = Scale()
) -> dict[str, float]:
    """The scores of an answer that holds one JSON object of exactly `dimensions` and `text_keys`.

    Mended, since they leave no doubt: reasoning in `<think>` tags, code fences or words around the object, trailing
    commas, line breaks inside strings. Anything else is malformed: two objects, other keys, scores that are no numbers.

    Raises:
        MalformedAnswerError: with the reason.
    """
    found = _only_object(_without_reasoning(text))
    _check_keys(found, [*dimensions, *text_keys])
    for key in text_keys:
        _check_text(key, found[key])
    return scale.check({key: _number(key, found[key]) for key in dimensions})


def parse_blocks(text: str, blocks: Mapping[str, Sequence[str]], scale: Scale) -> dict[str, float]:
    """The scores of `{"edit_accuracy": {"scores": [8, 9, 7], "reasoning": "..."}, ...}`, by the names of each block's
    scores in their order; as strict as `parse_scores`.

    Raises:
        MalformedAnswerError: with the reason.
    """
    found = _only_object(_without_reasoning(text))
    _check_keys(found, blocks)
    scores: dict[str, float] = {}
    for key, names in blocks.items():
        if not isinstance(found[key], dict):
            raise MalformedAnswerError(f"{key} is no object")
        _check_keys(found[key], ("scores", "reasoning"))
        _check_text(f"{key}.reasoning", found[key]["reasoning"])
        given = found[key]["scores"]
        if not isinstance(given, list) or len(given) != len(names):
            raise MalformedAnswerError(f"{key}.scores is no list of {len(names)}")
        scores |= {name: _number(name, value) for name, value in zip(names, given, strict=True)}
    return scale.check(scores)


def parse_lines(text: str, labels: Mapping[str, str], scale: Scale) -> dict[str, float]:
    """The scores of an answer in lines such as "Instruction Compliance: 4", each of `labels` (label -> score's name)
    once; other lines are comment, stars around a label and a full stop after a number are form.

    Raises:
        MalformedAnswerError: with the reason.
    """
    lines = [line.replace("*", "").strip() for line in _without_reasoning(text).splitlines()]
    scores = {}
    for label, name in labels.items():
        values = [line[len(label) + 1 :].strip() for line in lines if line.startswith(f"{label}:")]
        if len(values) != 1:
            raise MalformedAnswerError(f"{len(values)} lines begin with {label!r}, expected 1")
        if not re.fullmatch(r"\d+(\.\d+)?\.?", values[0]):
            raise MalformedAnswerError(f"{label} is not a number: {values[0]!r}")
        scores[name] = float(values[0].removesuffix("."))
    return scale.check(scores)


def _check_keys(found: dict[str, Any], expected: Collection[str]) -> None:
    if found.keys() != set(expected):
        raise MalformedAnswerError(f"expected the keys {sorted(expected)}, got {sorted(found)}")


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise MalformedAnswerError(f"{key} is not a text")


def _without_reasoning(text: str) -> str:
    # Some servers strip the opening tag, so everything up to the last closing one is reasoning.
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:
        raise MalformedAnswerError("the reasoning never ends")
    return answer


def _only_object(text: str) -> dict[str, Any]:
    start = text.find("{")
    if start < 0:
        raise MalformedAnswerError("no JSON object")
    text = _without_trailing_commas(text[start:])
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    try:
        found, end = decoder.raw_decode(text)
    except MalformedAnswerError:
        raise
    except ValueError as error:  # also for an integer of thousands of digits
        raise MalformedAnswerError(f"not JSON ({error})") from error
    except RecursionError as error:
        raise MalformedAnswerError("JSON that is nested too deeply") from error
    if "{" in text[end:]:
        raise MalformedAnswerError("more than one JSON object")
    return found


# Possessive, and neither side can fail once begun.
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.?)*+"?|,(?=\s*[}\]])', re.DOTALL)


def _without_trailing_commas(text: str) -> str:
    """Drops commas before a closing bracket, outside of strings.

    A string that never ends is taken to the end of the text: were it tried again from its next quotation mark, and the
    next, a text of these alone would take the square of its length.
    """
    return _STRING_OR_COMMA.sub(lambda match: match[0] if match[0] != "," else "", text)


def _no_constant(name: str) -> NoReturn:
    raise MalformedAnswerError(f"{name} is not a score")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedAnswerError("a key appears twice")
    return found


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MalformedAnswerError(f"{key} is not a number but {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    """The value if it is short: a list's text may be as long as the answer, and as deep."""
    return repr(value) if isinstance(value, (str, bool)) or value is None else f"a {type(value).__name__}"
