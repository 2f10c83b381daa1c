"""What an instruction says: which edits of the engine, of which things, and in which words that the engine never uses.

The way back from `instructions.yaml`, for instructions that anybody wrote. Words become tokens: what templates have
slots for is found by the engine's names ("the red fox" is `<what>`, "a red fox" `<new>`). A clause asks for the kind of
edit whose training templates it fits best, if it fits any:

    weight(token) = log(K / number of kinds that use the token) / log(K)        of K kinds
    fit(kind)     = sum of the weights of shared tokens - _APART * number of slots that only one of them has

Unknown are words that no template of the training split uses, that name nothing of the engine, and that are not in
`reading.yaml`, which has the plain English around an edit.
"""

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ..system.data_files import table_beside
from .backgrounds import backdrops
from .instructions import (
    CATEGORY_NOUNS,
    GRID,
    HALF,
    JOINS,
    LOOK_WORDINGS,
    MOTIONS,
    SIZE_WORDS,
    TEMPLATES,
    TWICE,
    WRAPPERS,
    look_examples,
)
from .sprites import COLOURS, sprites

_TABLE = table_beside(__file__)
_PLAIN = {topic: frozenset(words.split()) for topic, words in _TABLE.items() if isinstance(words, str)}
_WEAK, _STRONG = (tuple(phrases) for phrases in (_TABLE["weak"], _TABLE["strong"]))
FUNCTION_WORDS = _PLAIN["function"]
_VERBS = frozenset(("have", "let", "make", "want")).union(
    *(_PLAIN[topic] for topic in ("local_add", "local_remove", "replace", "acts"))
) - {"away", "gone", "out"}
_BEFORE_A_VERB = (FUNCTION_WORDS | _PLAIN["manners"]) - _VERBS
_SAY_NOTHING = (FUNCTION_WORDS | _PLAIN["manners"]) - {"by", "for", "into", "out", "with"}
_JOINS = frozenset(("<stop>", "and", "then", "also", "plus"))

_WHAT, _NEW, _BARE, _TEXT = "<what>", "<new>", "<bare>", "<text>"
_SLOTS = frozenset((_WHAT, _NEW, _TEXT, "<place>", "<motion>"))  # whose absence or presence tells kinds apart
_FILLED = {
    "what": "the fox",
    "new": "a fox",
    "where": "on the left",
    "motion": "drifting right",
    "colour": "red",
    "size": "small",
    "place": "a forest",
    "text": '"x"',
    "old": '"x"',
}
_SUBTITLE = _FILLED | {"where": "bottom"}  # "at the {where}"
_SLOT_OF = {"old": _TEXT}
_QUOTED = re.compile(r"""["“„][^"“”„]*["“”]|«[^»]*»|(?<!\w)'[^']*'(?!\w)""")
_SHORTEST_STEM = 4
# Chosen on the train split: a slot too many outweighs words that many kinds have, and no word that one kind has alone.
_APART, _LEAST_FIT = 0.6, 0.3


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an instruction says.

    Args:
        kinds: for each of its clauses the kind of edit that it asks for, such as "local_change/colour"; None for a
            clause that fits none.
        things: names of the engine's things that it names, as `Sprite.name`.
        unknown: its words that the engine never uses, in their order.
    """

    kinds: tuple[str | None, ...]
    things: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """Of its clauses, and "compound" if there are several."""
        of_clauses = tuple(dict.fromkeys(kind.partition("/")[0] for kind in self.kinds if kind is not None))
        return (*of_clauses, "compound") if len(self.kinds) > 1 else of_clauses


def read(instruction: str) -> Reading:
    """What an instruction says, whoever wrote it, in whatever language."""
    tokens, names = _tokens(instruction)
    return Reading(
        kinds=tuple(map(_kind_of, _clauses(tokens))) or (None,),
        things=tuple(dict.fromkeys(filter(None, names))),
        unknown=tuple(dict.fromkeys(token for token in tokens if not _is_known(token))),
    )


def degree_of(instruction: str) -> str | None:
    """The first words that ask for little ("slightly") or much ("a lot") of what is asked."""
    words = f" {' '.join(words_of(instruction))} "
    found = [(words.index(f" {phrase} "), phrase) for phrase in (*_WEAK, *_STRONG) if f" {phrase} " in words]
    return min(found)[1] if found else None


def is_weak(degree: str) -> bool:
    """Whether words that `degree_of` found ask for little."""
    return degree in _WEAK


def things_like(name: str) -> list[str]:
    """The engine's other things of the same category as one of them."""
    categories = {sprite.name: sprite.category for sprite in sprites("train")}
    return [other for other, category in categories.items() if category == categories[name] and other != name]


def words_of(text: str) -> list[str]:
    """Words in small letters and American spelling."""
    return re.findall(r"[^\W_]+", _plain(text))


def _plain(text: str) -> str:
    return text.casefold().replace("colour", "color").replace("grey", "gray")


def begin_alike(one: str, other: str) -> bool:
    """Whether the words begin alike: "pixels" and "pixelated", "brighten" and "brightness"."""
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= max(_SHORTEST_STEM, 0.75 * min(len(one), len(other)))


def weigh(kinds: Sequence[Collection[str]]) -> dict[str, float]:
    """What a word says, 0..1, by the words of K > 1 kinds (the equation at the head of the module)."""
    uses = {word: sum(word in kind for kind in kinds) for word in set().union(*kinds)}
    return {word: math.log(len(kinds) / count) / math.log(len(kinds)) for word, count in uses.items()}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Tokens of a kind's templates, and the slots that all of these have."""

    tokens: frozenset[str]
    required: frozenset[str]

    @classmethod
    def of(cls, templates: Iterable[str], fillings: Mapping[str, str], more: Collection[str] = ()) -> "_Kind":
        sets = []
        for template in templates:
            tokens, _ = _tokens(template.format(**fillings))
            slots = {_SLOT_OF.get(name, f"<{name}>") for name in re.findall(r"{(\w+)}", template)}
            sets.append(frozenset(tokens) - _SAY_NOTHING - (_SLOTS - slots))
        return cls(tokens=frozenset().union(*sets, more), required=_SLOTS.intersection(*sets))

    def fit(self, tokens: frozenset[str], weights: Mapping[str, float]) -> float:
        apart = len(self.required - tokens) + len((tokens & _SLOTS) - self.tokens)
        return sum(weights[token] for token in tokens & self.tokens) - _APART * apart


@cache
def _kinds() -> dict[str, _Kind]:
    templates: dict[str, list[str]] = {}
    for key, by_split in TEMPLATES.items():
        templates.setdefault(key.removesuffix("/loose").removesuffix("/still"), []).extend(by_split["train"])
    more = {
        "background_change": _backdrop_words(),
        "local_add": _PLAIN["local_add"],
        "replace": _PLAIN["replace"],
        **dict.fromkeys(("local_remove", "local_change/no shadow", "subtitle_edit/remove"), _PLAIN["local_remove"]),
    }
    kinds = {
        kind: _Kind.of(texts, _SUBTITLE if kind.startswith("subtitle_edit") else _FILLED, more.get(kind, ()))
        for kind, texts in templates.items()
    }
    return kinds | {f"global_style/{look}": _Kind.of(look_examples(look), {}) for look in LOOK_WORDINGS}


@cache
def _verbs() -> frozenset[str]:
    """What a clause begins with."""
    templates = (by_split["train"] for by_split in TEMPLATES.values())
    sentences = (words["sentences"] for words in LOOK_WORDINGS.values())
    clauses = itertools.chain(*templates, *sentences)
    return _VERBS.union(words_of(clause)[0] for clause in clauses) - _BEFORE_A_VERB


@cache
def _weights() -> dict[str, float]:
    return weigh([kind.tokens for kind in _kinds().values()])


@cache
def _backdrop_words() -> frozenset[str]:
    return frozenset(word for phrase in backdrops() for word in words_of(phrase)) - FUNCTION_WORDS - _PLAIN["picture"]


@cache
def _phrases() -> dict[tuple[str, ...], str]:
    """What is found as a whole: words -> token; things as "thing:NAME"."""
    named = {
        "<where>": itertools.chain(*GRID.values()),
        "<motion>": itertools.chain(*MOTIONS.values()),
        "<size>": (*itertools.chain(*SIZE_WORDS.values()), *TWICE, *HALF, *_PLAIN["comparatives"]),
        "<colour>": COLOURS,
        "<place>": (*_PLAIN["places"], *(re.sub("^an? |^the ", "", phrase) for phrase in backdrops())),
        "thing:": (f"{noun}{ending}" for noun in ("object", *CATEGORY_NOUNS.values()) for ending in ("", "s")),
    }
    found = {tuple(words_of(phrase)): token for token, phrases in named.items() for phrase in phrases}
    for sprite in sprites("train"):
        found |= dict.fromkeys(map(tuple, map(words_of, (sprite.name, sprite.plural))), f"thing:{sprite.name}")
    # "A thermal camera" and "defocus the camera" name no camera: they are found whole.
    for words in map(words_of, _look_phrases()):
        begin = 1 if words[0] in _PLAIN["indefinite"] else 0
        for end, word in enumerate(words):
            if end > begin and found.get((word,), "").startswith("thing:"):
                found[tuple(words[begin : end + 1])] = " ".join(words[begin : end + 1])
    return found


def _look_phrases() -> Iterable[str]:
    for words in LOOK_WORDINGS.values():
        yield from (*words["adjectives"], *words["nouns"], *words["sentences"])


@cache
def _plurals() -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(words_of(sprite.plural)) for sprite in sprites("train") if sprite.plural != sprite.name)


def _tokens(text: str) -> tuple[list[str], list[str]]:
    """Tokens of a text, and the names of its things; a category ("the animal") is a thing without a name."""
    marked = re.sub(r"[;.!?]+(\s|$)", " <stop> ", _QUOTED.sub(f" {_TEXT} ", text.replace("<", " ")))
    words = re.findall(r"<text>|<stop>|[^\W_]+", _plain(marked))
    tokens: list[str] = []
    names: list[str] = []
    phrases, longest = _phrases(), max(map(len, _phrases()))
    at = 0
    while at < len(words):
        length = next((n for n in range(longest, 0, -1) if tuple(words[at : at + n]) in phrases), 1)
        phrase = tuple(words[at : at + length])
        token = phrases[phrase] if phrase in phrases else words[at]
        if token == "one" and tokens and tokens[-1] in _PLAIN["definite"] | _PLAIN["modifiers"]:  # "the left one"
            token = "thing:"
        if token.startswith("thing:"):
            names.append(token.removeprefix("thing:"))
            tokens.append(_reference(tokens, plural=phrase in _plurals()))
        elif not (token == "<where>" and tokens[-1:] == [_WHAT]):  # "the fox on the left"
            tokens.append(token)
        at += length
    return tokens, names


def _reference(tokens: list[str], *, plural: bool) -> str:
    """How a thing is meant that stands behind `tokens`; takes what belongs to it off them."""
    while tokens and tokens[-1] in _PLAIN["modifiers"]:
        tokens.pop()
    if tokens and tokens[-1] in _PLAIN["definite"] | _PLAIN["indefinite"]:
        meant = _WHAT if tokens.pop() in _PLAIN["definite"] else _NEW
        if tokens and tokens[-1] in ("all", "both"):  # "all the foxes"
            tokens.pop()
        return meant
    return _NEW if plural else _BARE


def _clauses(tokens: Sequence[str]) -> list[list[str]]:
    """Cut at "and", "then" and stops where what follows is an edit of its own."""
    clauses: list[list[str]] = [[]]
    for token in tokens:
        if token in _JOINS:
            clauses.append([])
        else:
            clauses[-1].append(token)
    joined: list[list[str]] = []
    for clause in filter(None, clauses):
        if joined and not (_begins_with_a_verb(clause) and _kind_of(clause) and _kind_of(joined[-1])):
            joined[-1] += clause
        else:
            joined.append(clause)
    return joined


def _begins_with_a_verb(clause: Sequence[str]) -> bool:
    first = next((token for token in clause if token not in _BEFORE_A_VERB and token != "<where>"), "")
    return first in _verbs()


def _kind_of(clause: Sequence[str]) -> str | None:
    """The kind that a clause fits best; None if it fits none, or if it names things and asks for nothing."""
    if _SLOTS | {_BARE} >= set(clause):
        return None
    kinds, weights = _kinds(), _weights()
    best, fit = max(
        ((name, kind.fit(meant, weights)) for meant in _meanings(clause) for name, kind in kinds.items()),
        key=lambda pair: pair[1],
    )
    return best if fit >= _LEAST_FIT else None


def _meanings(clause: Sequence[str]) -> Iterable[frozenset[str]]:
    """A thing without an article may be meant or new: "replace fox with bus"."""
    plain = frozenset(clause) - {_BARE}
    if _BARE not in clause:
        return [plain]
    return [plain | {_WHAT}, plain | {_NEW}, plain | {_WHAT, _NEW}]


@cache
def _lexicon() -> frozenset[str]:
    """The engine's words of the training split."""
    around = (*WRAPPERS["train"], *JOINS["train"])
    return frozenset().union(*(kind.tokens for kind in _kinds().values()), *map(words_of, around))


def _is_known(token: str) -> bool:
    if token.startswith("<") or token.isdecimal() or any(token in words for words in _PLAIN.values()):
        return True
    return token in _lexicon() or any(begin_alike(token, known) for known in _lexicon() | _VERBS)
