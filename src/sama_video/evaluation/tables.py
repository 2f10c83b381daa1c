"""Tables as data, as CSV, and as whatever a template of `page/` makes of them: Markdown, LaTeX, HTML.

Names of runs, judges and items come from outside: they are shown, and do nothing in a program that opens them.
"""

import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2

from ..judge.redact import one_line
from ..system.data_files import table_beside
from .aggregate import Counts
from .statistics import FEW_SOURCES, Interval

CEILING = "ceiling"
_CLOSED_MARK = "†"
CLOSED_NOTE = f"{_CLOSED_MARK} closed system, as marked in print. Bold: the best of the others."
ONE_SOURCE = "n = 1"
_COUNTS_COLUMN = "ok / missing / failed"
# What a spreadsheet takes for the beginning of a formula, also as wide characters.
_FORMULA_STARTS = ("=", "+", "-", "@")
# Marks of Markdown that have a meaning within a line; an underscore has none between letters.
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
# What GitHub's Markdown makes links and mentions of without being asked.
_AUTOLINKS = re.compile(r"(?<=\w):(?=//)|(?<=www)\.|@", re.IGNORECASE)
# Within a line's first characters: headings, lists, quotations, lines.
_MARKDOWN_STARTS = re.compile(r"\A(?:([#>+\-=])|(\d+)([.)]))")
_LATEX_SPECIAL = table_beside(__file__)
_LONGEST = 2000


@dataclass(frozen=True, kw_only=True)
class Column:
    """A name, and which values are the good ones; "" where none is."""

    name: str
    better: Literal["higher", "lower", ""] = "higher"


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A system's line.

    Args:
        cells: one a column; None for nothing to print. An interval whose ends are NaN is a bare number.
        closed: whether its weights are not public, as the paper marks it.
        remark: printed beside the name.
        origin: where the numbers come from; those of a `CEILING` are no system's, and never the best.
        counts: of the items behind them, where they are known.
    """

    name: str
    cells: tuple[Interval | None, ...]
    closed: bool = False
    remark: str = ""
    origin: str = "run"
    counts: Counts | None = None

    @property
    def competes(self) -> bool:
        """Whether a number of it can be the best of its column."""
        return not self.closed and self.origin != CEILING

    @property
    def label(self) -> str:
        return self.name + (_CLOSED_MARK if self.closed else "") + (f" ({self.remark})" if self.remark else "")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of numbers under one rule.

    Args:
        first: heading of the rows' names.
        notes: sentences printed below.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    first: str = "System"
    decimals: int = 2
    notes: tuple[str, ...] = field(default=())

    @property
    def has_counts(self) -> bool:
        return any(row.counts for row in self.rows)

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The notes, and a warning where intervals decide less than they seem to."""
        return (*self.notes, *few_sources_notes([cell for row in self.rows for cell in row.cells if cell is not None]))

    @property
    def heads(self) -> list[str]:
        """Of the rows' names, the columns, and the counts if there are any."""
        names = [column.name for column in self.columns]
        return [self.first, *names, *([_COUNTS_COLUMN] if self.has_counts else [])]

    def best(self, index: int) -> float | None:
        """The best value of a column among the rows that are not closed; None if there is nothing to compare."""
        values = [cell.value for row in self.rows if row.competes and (cell := row.cells[index]) is not None]
        values = [self.rounded(value) for value in values if not math.isnan(value)]
        better = self.columns[index].better
        if len(values) < 2 or not better:
            return None
        return max(values) if better == "higher" else min(values)

    def is_best(self, row: TableRow, index: int) -> bool:
        cell = row.cells[index]
        return cell is not None and row.competes and self.rounded(cell.value) == self.best(index)

    def rounded(self, value: float) -> float:
        return round(value, self.decimals)

    def number(self, value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.{self.decimals}f}"

    def printed(self, row: TableRow) -> list[tuple[str, str, bool]]:
        """Of each cell of a row: its number, its interval, and whether it is the best of its column."""
        return [
            ("–", "", False)
            if cell is None
            else (self.number(cell.value), self.interval_of(cell), self.is_best(row, index))
            for index, cell in enumerate(row.cells)
        ]

    def interval_of(self, cell: Interval) -> str:
        """ "[8.31, 8.60]", "n = 1" where one source has no interval, or nothing for a bare number."""
        if cell.sources == 1:
            return ONE_SOURCE
        return "" if math.isnan(cell.low) else f"[{self.number(cell.low)}, {self.number(cell.high)}]"


def few_sources_notes(intervals: Iterable[Interval]) -> list[str]:
    """A warning if some of the intervals stand on few sources; else none."""
    unsure = [interval.sources for interval in intervals if interval.is_unsure and interval.sources]
    if not unsure:
        return []
    fewest = min(unsure)
    return [
        f"Careful: an interval here stands on {fewest} source{'s' * (fewest > 1)}. Intervals of fewer than "
        f"{FEW_SOURCES} sources are too narrow to decide by, and one source ('{ONE_SOURCE}') has none."
    ]


def bare(value: float | None) -> Interval | None:
    """A cell without an interval."""
    return None if value is None else Interval(value, math.nan, math.nan)


def counts_text(counts: Counts | None) -> str:
    return f"{counts.ok}/{counts.missing}/{counts.failed}" if counts else ""


def rendered(template: str, text: Callable[[str], str] = str, **values: Any) -> str:
    """A template of `page/` filled in.

    Args:
        text: what its filter of that name makes of texts from outside; HTML is escaped anyway.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": text, "plain": plain_text}
    return environment.get_template(template).render(counts_text=counts_text, **values)


def console(table: Table) -> str:
    """A pipe table for a screen: texts as they are, but for what a terminal would obey."""
    return rendered("table.md", plain_text, table=table)


_CSV_HEADS = ("table", "row", "origin", "closed", "remark", "column")
_CSV_NUMBERS = ("value", "low", "high", "n_ok", "n_missing", "n_failed", "n_sources", "warning")


def csv_text(tables: Sequence[Table]) -> str:
    """All tables as one, a line a number, in full precision; empty where there is nothing.

    Words that a spreadsheet would take for a formula begin with an apostrophe; numbers are numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CSV_HEADS, *_CSV_NUMBERS])
    for table in tables:
        for row in table.rows:
            counts = (row.counts.ok, row.counts.missing, row.counts.failed) if row.counts else ("", "", "")
            for column, cell in zip(table.columns, row.cells, strict=True):
                numbers = (cell.value, cell.low, cell.high) if cell else (math.nan,) * 3
                words = [_csv_cell(text) for text in (table.title, row.name, row.origin, row.remark, column.name)]
                whose = [*words[:3], int(row.closed), *words[3:]]
                known = ["" if math.isnan(number) else number for number in numbers]
                writer.writerow([*whose, *known, *counts, *_csv_sources(cell)])
    return text.getvalue()


def _csv_sources(cell: Interval | None) -> list[str | int]:
    if cell is None or cell.sources is None:
        return ["", ""]
    warning = ONE_SOURCE if cell.sources == 1 else f"fewer than {FEW_SOURCES} sources" if cell.is_unsure else ""
    return [cell.sources, warning]


# Texts from outside


def plain_text(text: str) -> str:
    """For a screen: one line without control characters."""
    return one_line(text, _LONGEST)


def markdown_text(text: str) -> str:
    """For Markdown that allows HTML, in a paragraph, a heading, or a cell of a table."""
    text = plain_text(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKDOWN.sub(lambda mark: f"\\{mark[0]}", text)
    text = _AUTOLINKS.sub(lambda mark: f"&#{ord(mark[0])};", text)
    return _MARKDOWN_STARTS.sub(lambda start: f"\\{start[1]}" if start[1] else f"{start[2]}\\{start[3]}", text)


def _csv_cell(text: str) -> str:
    """For a cell of words in a table that a spreadsheet opens: an apostrophe keeps it from being a formula."""
    plain = plain_text(text)
    begins = unicodedata.normalize("NFKC", plain)[:1]
    return f"'{plain}" if begins in _FORMULA_STARTS or text[:1] in ("\t", "\r", "\n") else plain


def latex_text(text: str) -> str:
    """For a paragraph, a caption, a comment, or a cell of a table."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in plain_text(text))
