"""What a model was trained for, and whether an instruction is far from all of it. Imports no torch.

A pipeline's `trained_for` names kinds of edits, each with some of the instructions it was trained on. An instruction is
far from all of them if most of what it says appears in none of them. It is compared word by word, with weights:

    weight(word) = log(K / number of kinds that use the word) / log(K)        of K kinds; 1 where K is 1
    familiarity  = matched weight / (matched weight + _UNKNOWN * number of unknown words)

Words that all kinds share ("make the video") say nothing and weigh nothing; function words of English neither.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

TrainedFor = Mapping[str, Sequence[str]]

# One unknown word speaks louder than one known: "remove the cup" shares "remove" with "remove the colour".
_UNKNOWN = 2.0
FAR = 0.4
_SHORTEST_STEM = 4
ENGLISH = """
a about all also am an and any are as at be been being bit but by can could do does each even every for from
had has have he her his how i if in into is it its just kind kindly let like little lot make me more most much
my need next no not now of off on one only onto or our out over overall please quite really she should
slightly so some such task than that the their them then there these they this those to too totally up upon us
very want was way we were what when which while will with without would you your
"""
_FUNCTION_WORDS = frozenset(ENGLISH.split())


def is_far(prompt: str, trained_for: TrainedFor) -> bool:
    """Whether an instruction is far from all that a model was trained for; never for a model that does not say it."""
    return bool(trained_for) and familiarity(prompt, trained_for) < FAR


def familiarity(prompt: str, trained_for: TrainedFor) -> float:
    """How much of what an instruction says the model was trained on, 0..1 (equations at the head of the module)."""
    weights = _weights(trained_for)
    found = [_weight_of(word, weights) for word in _words(prompt)]
    matched = sum(weight for weight in found if weight is not None)
    unknown = sum(weight is None for weight in found)
    return matched / (matched + _UNKNOWN * unknown) if matched else 0.0


def describe_scope(trained_for: TrainedFor) -> str:
    """The kinds in one line."""
    return ", ".join(trained_for)


def _words(text: str) -> list[str]:
    """Words in small letters and American spelling, without function words."""
    words = re.findall(r"[^\W_]+", text.casefold().replace("colour", "color").replace("grey", "gray"))
    return [word for word in words if word not in _FUNCTION_WORDS]


def _weights(trained_for: TrainedFor) -> dict[str, float]:
    kinds = [_all_words([kind, *instructions]) for kind, instructions in trained_for.items()]
    if len(kinds) == 1:
        return dict.fromkeys(kinds[0], 1.0)
    vocabulary = set().union(*kinds)
    uses = {word: sum(word in kind for kind in kinds) for word in vocabulary}
    return {word: math.log(len(kinds) / count) / math.log(len(kinds)) for word, count in uses.items()}


def _all_words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in _words(text)}


def _weight_of(word: str, weights: Mapping[str, float]) -> float | None:
    """Of the word, or of the known one with the same stem; None for an unknown word."""
    if word in weights:
        return weights[word]
    return max((weight for known, weight in weights.items() if _share_stem(word, known)), default=None)


def _share_stem(one: str, other: str) -> bool:
    """Whether the words begin alike: "pixels" and "pixelated", "brighten" and "brightness"."""
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= max(_SHORTEST_STEM, 0.75 * min(len(one), len(other)))
