"""Tables as data, and as Markdown, CSV and LaTeX. HTML is `page.py`'s."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .aggregate import Counts
from .statistics import Interval

CLOSED_MARK = "†"
CLOSED_NOTE = f"{CLOSED_MARK} closed system, as marked in print. Bold: the best of the others."
COUNTS_COLUMN = "ok / missing / failed"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A name, and which values are the good ones; "" where none is."""

    name: str
    better: Literal["higher", "lower", ""] = "higher"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A system's line.

    Args:
        cells: one a column; None for nothing to print. An interval whose ends are NaN is a bare number.
        closed: whether its weights are not public, as the paper marks it.
        remark: printed beside the name.
        origin: where the numbers come from.
        counts: of the items behind them, where they are known.
    """

    name: str
    cells: tuple[Interval | None, ...]
    closed: bool = False
    remark: str = ""
    origin: str = "run"
    counts: Counts | None = None

    @property
    def label(self) -> str:
        return self.name + (CLOSED_MARK if self.closed else "") + (f" ({self.remark})" if self.remark else "")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of numbers under one rule.

    Args:
        first: heading of the rows' names.
        notes: sentences printed below.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    first: str = "System"
    decimals: int = 2
    notes: tuple[str, ...] = field(default=())

    @property
    def has_counts(self) -> bool:
        return any(row.counts for row in self.rows)

    @property
    def heads(self) -> list[str]:
        """Of the rows' names, the columns, and the counts if there are any."""
        names = [column.name for column in self.columns]
        return [self.first, *names, *([COUNTS_COLUMN] if self.has_counts else [])]

    def best(self, index: int) -> float | None:
        """The best value of a column among the rows that are not closed; None if there is nothing to compare."""
        values = [cell.value for row in self.rows if not row.closed and (cell := row.cells[index]) is not None]
        values = [self.rounded(value) for value in values if not math.isnan(value)]
        better = self.columns[index].better
        if len(values) < 2 or not better:
            return None
        return max(values) if better == "higher" else min(values)

    def is_best(self, row: Row, index: int) -> bool:
        cell = row.cells[index]
        return cell is not None and not row.closed and self.rounded(cell.value) == self.best(index)

    def rounded(self, value: float) -> float:
        return round(value, self.decimals)

    def number(self, value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.{self.decimals}f}"

    def interval_of(self, cell: Interval) -> str:
        """ "[8.31, 8.60]", or nothing for a bare number."""
        return "" if math.isnan(cell.low) else f"[{self.number(cell.low)}, {self.number(cell.high)}]"


def bare(value: float | None) -> Interval | None:
    """A cell without an interval."""
    return None if value is None else Interval(value, math.nan, math.nan)


def counts_text(counts: Counts | None) -> str:
    return f"{counts.ok}/{counts.missing}/{counts.failed}" if counts else ""


def markdown(table: Table) -> str:
    """A pipe table under a heading, the best in bold."""
    heads = table.heads
    lines = [f"## {table.title}", "", _pipes(heads), _pipes(["---"] + ["---:"] * (len(heads) - 1))]
    for row in table.rows:
        cells = [_markdown_cell(table, row, index) for index in range(len(table.columns))]
        lines.append(_pipes([row.label, *cells, *([counts_text(row.counts)] if table.has_counts else [])]))
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_cell(table: Table, row: Row, index: int) -> str:
    cell = row.cells[index]
    if cell is None:
        return "–"
    number = table.number(cell.value)
    return f"{f'**{number}**' if table.is_best(row, index) else number} {table.interval_of(cell)}".rstrip()


CSV_HEADS = ("table", "row", "origin", "closed", "remark", "column")
CSV_NUMBERS = ("value", "low", "high", "n_ok", "n_missing", "n_failed")


def csv_text(tables: Sequence[Table]) -> str:
    """All tables as one, a line a number, in full precision; empty where there is nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_HEADS, *CSV_NUMBERS])
    for table in tables:
        for row in table.rows:
            counts = (row.counts.ok, row.counts.missing, row.counts.failed) if row.counts else ("", "", "")
            for column, cell in zip(table.columns, row.cells, strict=True):
                numbers = [_csv_number(n) for n in (cell.value, cell.low, cell.high)] if cell else ["", "", ""]
                whose = (table.title, row.name, row.origin, int(row.closed), row.remark, column.name)
                writer.writerow([*whose, *numbers, *counts])
    return text.getvalue()


def _csv_number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    CLOSED_MARK: r"\textsuperscript{\textdagger}",
    "–": "--",
    "−": "$-$",
    "τ": r"$\tau$",
    "ρ": r"$\rho$",
}


def latex(table: Table) -> str:
    """A booktabs table; closed systems are gray, which needs xcolor."""
    heads = table.heads
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.title)}. {' '.join(map(_escaped, table.notes))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        _latex_row([_escaped(head) for head in heads]),
        r"\midrule",
    ]
    for row in table.rows:
        cells = [_latex_cell(table, row, index) for index in range(len(table.columns))]
        named = [_escaped(row.label), *cells, *([counts_text(row.counts)] if table.has_counts else [])]
        lines.append(_latex_row([rf"\textcolor{{gray}}{{{cell}}}" for cell in named] if row.closed else named))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(table: Table, row: Row, index: int) -> str:
    cell = row.cells[index]
    if cell is None:
        return "--"
    number = _escaped(table.number(cell.value))
    number = rf"\textbf{{{number}}}" if table.is_best(row, index) else number
    interval = table.interval_of(cell)
    return rf"{number} {{\scriptsize {interval}}}" if interval else number
