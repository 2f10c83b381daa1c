"""Tables as text, as spreadsheets of all countries write them: separated by commas, semicolons, tabs or bars.

The separator is the one that the header names its columns by, so that commas in the prompts of a file with semicolons
mean nothing. UTF-8 and UTF-16 are told apart by the mark at the beginning.
"""

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from ..system.errors import UserError

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Lines that are looked at where the header alone leaves more than one separator possible.
_LOOKED_AT = 100


def open_text(file: IO[bytes]) -> io.TextIOWrapper:
    """The text of a file, its line ends as they are.

    Raises:
        UserError: while reading, for text that is neither UTF-8 nor UTF-16 with its mark; see `decoded`.
    """
    buffered = io.BufferedReader(file)  # pyright: ignore[reportArgumentType] (all that fsspec opens can do `readinto`)
    mark = buffered.peek(2)[:2]
    encoding = "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return io.TextIOWrapper(buffered, encoding=encoding, newline="")


def read_delimited(file: IO[bytes], is_known: Callable[[str], bool]) -> Iterator[dict[str, str]]:
    """A record for each line that is not empty.

    Args:
        is_known: whether a name is one that a column may be expected to have.

    Raises:
        UserError: for a header that could be separated in two ways or names a column twice, a line with another
            number of values, or broken quotes.
    """
    lines, told = _told_separator(iter(open_text(file)))
    head = list(itertools.islice(lines, _LOOKED_AT))
    if head and 2 * head[0].count("\0") >= len(head[0]) - 1 > 0:
        raise UserError("it is UTF-16 without its mark, or no text; save it as UTF-8")
    separator = told or find_separator(head, is_known)
    reader = csv.reader(itertools.chain(head, lines), delimiter=separator, strict=True)
    above = 1 if told else 0  # lines that the reader does not see
    try:
        columns = next(reader, [])
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise UserError(f"its first line names a column twice ({twice[0] or 'one without a name'}); rename one")
        for values in reader:
            if values and len(values) != len(columns):
                raise UserError(
                    f"line {reader.line_num + above} has {len(values)} values, but the first line names {len(columns)} "
                    f"columns; quote values that hold {_SEPARATORS.get(separator, separator)}"
                )
            if values:
                yield dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num + above} is broken ({error}); check its quotes: one inside a quoted value is "
            "written twice"
        ) from error


def _told_separator(lines: Iterator[str]) -> tuple[Iterator[str], str | None]:
    """Spreadsheets may write `sep=;` above the header."""
    first = next(lines, "")
    told = first.strip("\r\n")
    if len(told) == 5 and told.lower().startswith("sep="):
        return lines, told[4]
    return itertools.chain([first], lines), None


def find_separator(head: Sequence[str], is_known: Callable[[str], bool]) -> str:
    """Of a table's first lines: the one that gives its header most known names, else all lines as many values.

    Raises:
        UserError: where two would do.
    """
    headers = {separator: _records(head, separator, 1)[0] for separator in _SEPARATORS}
    possible = [separator for separator in _SEPARATORS if len(headers[separator]) > 1]
    if len(possible) > 1:
        scores = {separator: sum(map(is_known, headers[separator])) for separator in possible}
        possible = [separator for separator in possible if scores[separator] == max(scores.values())]
    if len(possible) > 1:
        possible = [separator for separator in possible if _is_even(head, separator)] or possible
    if len(possible) > 1:
        names = " or ".join(_SEPARATORS[separator] for separator in possible)
        raise UserError(f"its columns may be separated by {names}; use names for them that hold only one of these")
    return possible[0] if possible else ","


def _is_even(head: Sequence[str], separator: str) -> bool:
    """Whether all of the lines have as many values as the header."""
    # The last line that is looked at may end in the middle of a quoted value.
    whole = len(head) - (len(head) == _LOOKED_AT)
    return len({len(values) for values in _records(head, separator, whole) if values}) == 1


def _records(head: Sequence[str], separator: str, count: int) -> list[list[str]]:
    """Up to `count` records; one without values where the lines are broken."""
    try:
        return list(itertools.islice(csv.reader(head, delimiter=separator), count)) or [[]]
    except csv.Error:
        return [[]]
