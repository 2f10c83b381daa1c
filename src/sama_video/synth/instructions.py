"""What the engine says, in the words of `assets/synth/instructions.yaml`, which explains its tables and their slots."""

import re

import yaml

from .draw import Draw
from .sprites import ASSETS

# libyaml's loader takes 10 ms for the file, PyYAML's own 100 ms.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = yaml.load((ASSETS / "instructions.yaml").read_text(encoding="utf-8"), _LOADER)

# By split.
WRAPPERS: dict[str, list[str]] = _WORDS["wrappers"]
JOINS: dict[str, list[str]] = _WORDS["joins"]
TEMPLATES: dict[str, dict[str, list[str]]] = _WORDS["templates"]
SUBTITLES: dict[str, list[str]] = _WORDS["subtitles"]
CAPTIONS: dict[str, list[str]] = _WORDS["captions"]
EMPTY_CAPTIONS: dict[str, list[str]] = _WORDS["empty_captions"]

# Shared by the splits.
GRID: dict[str, list[str]] = _WORDS["grid"]
MOTIONS: dict[str, list[str]] = _WORDS["motions"]
SIZE_WORDS: dict[str, list[str]] = _WORDS["sizes"]
TWICE: list[str] = _WORDS["twice"]
HALF: list[str] = _WORDS["half"]
CATEGORY_NOUNS: dict[str, str] = _WORDS["categories"]
WIDER_NOUNS: dict[str, dict[str, list[str]]] = _WORDS["wider"]

LOOK_WORDINGS: dict[str, dict] = _WORDS["looks"]
_LOOK_FRAMES: dict[str, list[str]] = _WORDS["look_frames"]
# Says that the clip is meant: "it" and a bare "sepia" could be about the thing that another edit names.
_NAMES_CLIP = re.compile(r"\b(video|clip|scene|footage|picture|image|frame|everything|day)\b")


def _phrases_to_train_on(look: str) -> list[tuple[list[str], list[str]]]:
    """Phrases of each kind, and the frames around them."""
    return [(LOOK_WORDINGS[look][kind], frames) for kind, frames in _LOOK_FRAMES.items()]


def look_examples(look: str) -> list[str]:
    """Every phrase of a look's training split, each in one sentence."""
    turn = list(LOOK_WORDINGS).index(look)
    return [
        frames[(5 * number + turn) % len(frames)].format(phrase)
        for phrases, frames in _phrases_to_train_on(look)
        for number, phrase in enumerate(phrases)
    ]


def look_instruction(look: str, split: str, draw: Draw, names_clip: bool = False) -> str:
    """A clause that asks for `look`, one of `synth.looks.LOOKS`, without a final mark.

    Args:
        names_clip: say that the whole clip is meant, and not just "it" or "sepia".
    """
    if split != "train":
        text = LOOK_WORDINGS[look][split].rstrip(".")
        return text[0].lower() + text[1:]
    kinds = [_clauses_to_train_on(look, kind, names_clip) for kind in _LOOK_FRAMES]
    return draw.choice(draw.choice([clauses for clauses in kinds if clauses]))


def _clauses_to_train_on(look: str, kind: str, names_clip: bool) -> list[str]:
    """Every phrase of a kind in each of its frames."""
    pairs = [(frame, phrase) for frame in _LOOK_FRAMES[kind] for phrase in LOOK_WORDINGS[look][kind]]
    if names_clip:
        # The frame must, unless the phrase is a sentence: "look like an infrared image" has no subject of its own.
        pairs = [pair for pair in pairs if _NAMES_CLIP.search(pair[kind == "sentences"])]
    return [frame.format(phrase) for frame, phrase in pairs]


def finish(clause: str, split: str, draw: Draw) -> str:
    """A whole instruction: wrapped, with or without a capital and a final mark."""
    if draw.chance(0.35) and clause[-1] not in "?.!":
        clause = draw.choice(WRAPPERS[split]).format(clause)
    if draw.chance(0.6):
        clause = clause[0].upper() + clause[1:]
    return clause + draw.choice(("", "", ".")) if clause[-1] not in "?.!" else clause


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' and not words.startswith(('uni', 'one')) else 'a'} {words}"
