"""Names of files that any system can hold, from ids that may be anything."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

# Bytes: systems take 255, and what is half-written needs room for more.
_LONGEST_NAME = 200
# What Windows keeps for itself, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_stem(text: str) -> str:
    """A file's name without suffix: letters, digits, `-`, `_` and `.`; the same text always gives the same.

    A text that is too long, or a name that a system keeps for itself, ends with a hash of all of it.
    """
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text).lstrip(".") or "_"
    short = shortened(stem)
    return short if short != stem or not _RESERVED.fullmatch(stem) else f"{stem}-{_hash(text)}"


def shortened(name: str, suffix: str = "") -> str:
    """The name with its suffix, cut where it is too long; a hash of the whole then tells it from others."""
    if len(_bytes(name + suffix)) <= _LONGEST_NAME:
        return name + suffix
    end = f"-{_hash(name)}{suffix}"
    return _bytes(name)[: _LONGEST_NAME - len(_bytes(end))].decode(errors="ignore") + end


def told_apart(names: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Stems that no system takes for one another, from (id, stem) in their order.

    A stem that is an earlier one, but for capitals or ways of writing an accent, gets a hash of its id.
    """
    seen: set[str] = set()
    for key, stem in names:
        folded = _folded(stem)
        if folded in seen:
            stem = shortened(f"{stem}-{_hash(key)}")
        seen.add(_folded(stem))
        yield stem


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _hash(text: str) -> str:
    return hashlib.sha256(_bytes(text)).hexdigest()[:8]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
