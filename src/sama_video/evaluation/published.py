"""The paper's tables of scores (2 to 6) as data: every printed cell, and what is wrong in print.

`published/*.yaml` hold one each. Cells stay as printed; a slip is listed beside them and never corrected.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from ..system.strict import Strict
from .aggregate import TaskScores
from .tables import CLOSED_NOTE, Column, Table, TableRow, bare

_FOLDER = Path(__file__).parent / "published"
_PAPER = "the SAMA paper"


@dataclass(frozen=True, kw_only=True)
class Slip(Strict):
    """Cells that cannot be what was meant.

    Args:
        about: how they show it.
    """

    task: str
    system: str
    columns: tuple[str, ...]
    about: str


@dataclass(frozen=True, kw_only=True)
class PublishedTable(Strict):
    """A table of the paper.

    Args:
        benchmark: name of its file in `benchmarks/`.
        judge: as the paper names it.
        decimals: of the printed cells.
        columns: in the order of the printed scores; the last is the task's headline.
        tasks: task -> system -> score of each column, None for a printed dash.
        closed: systems shaded gray in print, whose weights are not public.
        parameters: system -> number of parameters, where the table prints it.
        about: of an ablation, what its rows are models of; they stand in no table with other runs.
    """

    title: str
    benchmark: str
    judge: str
    decimals: int
    columns: tuple[str, ...]
    tasks: dict[str, dict[str, tuple[float | None, ...]]]
    closed: frozenset[str]
    parameters: dict[str, str] = field(default_factory=dict)
    slips: tuple[Slip, ...] = ()
    about: str = ""

    @property
    def systems(self) -> list[str]:
        """In the order of print, each once."""
        return list(dict.fromkeys(system for rows in self.tasks.values() for system in rows))


@cache
def published_table(name: str) -> PublishedTable:
    """By the name of its file, such as "table_4".

    Raises:
        ValueError: for a row whose cells are not one a column.
    """
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    table = TypeAdapter(PublishedTable).validate_python(content)
    for task, rows in table.tasks.items():
        for system, cells in rows.items():
            if len(cells) != len(table.columns):
                raise ValueError(f"{name}, {task}, {system}: {len(cells)} cells for {len(table.columns)} columns")
    return table


# Its rows beside runs


def paper_notes(paper: PublishedTable, tasks: Sequence[str], columns: Collection[str]) -> list[str]:
    """Whose the rows are, and what is wrong in the cells shown."""
    notes = [f"Rows without counts: {_PAPER}, {paper.title}, as printed; judge {paper.judge}."]
    if any(paper.closed & paper.tasks.get(task, {}).keys() for task in tasks):
        notes.append(CLOSED_NOTE)
    slips = [slip for slip in paper.slips if slip.task in tasks and set(slip.columns) & set(columns)]
    return notes + [f"In print, {slip.task}, {slip.system}, {', '.join(slip.columns)}: {slip.about}" for slip in slips]


def _paper_row(paper: PublishedTable, system: str, cells: Sequence[float | None]) -> TableRow:
    return TableRow(
        name=system,
        cells=tuple(bare(cell) for cell in cells),
        closed=system in paper.closed,
        remark=paper.parameters.get(system, ""),
        origin=f"{_PAPER}, {paper.title}",
    )


def paper_headlines(paper: PublishedTable, tasks: Sequence[str], overall: bool) -> list[TableRow]:
    """A row a system: the last printed cell of each task."""
    nothing = (None,) * len(paper.columns)
    return [
        _paper_row(
            paper,
            system,
            [paper.tasks.get(task, {}).get(system, nothing)[-1] for task in tasks] + [None] * overall,
        )
        for system in paper.systems
    ]


def paper_rows(paper: PublishedTable, scores: TaskScores) -> list[TableRow]:
    """A row a system that was printed for this task; a column that the paper does not print is empty."""
    return [
        _paper_row(paper, system, [dict(zip(paper.columns, cells, strict=True)).get(name) for name in scores.columns])
        for system, cells in paper.tasks.get(scores.task, {}).items()
        if any(cell is not None for cell in cells)
    ]


def paper_apart(paper: PublishedTable, remark: str = "") -> Table:
    """The printed table by itself, what it prints of a task alone in full, of several tasks the last column.

    Args:
        remark: why it stands apart.
    """
    tasks, (first, *others) = list(paper.tasks), paper.tasks.values()
    alone = [_paper_row(paper, system, cells) for system, cells in first.items()]
    names = tasks if others else paper.columns
    return Table(
        title=f"{_PAPER[0].upper() + _PAPER[1:]}, {paper.title}, as printed",
        columns=tuple(Column(name=name.replace("_", " ")) for name in names),
        rows=tuple(paper_headlines(paper, tasks, overall=False) if others else alone),
        decimals=paper.decimals,
        notes=tuple(filter(None, (*paper_notes(paper, tasks, paper.columns[-1:]), paper.about, remark))),
    )
