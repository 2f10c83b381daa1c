"""The paper's result tables as data: every printed cell, and what is wrong in print. `published/*.yaml` hold one each.

Cells stay as printed; a slip is listed beside them and never corrected.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "published"
PAPER = "the SAMA paper"


@dataclass(frozen=True, kw_only=True)
class Slip:
    """Cells that cannot be what was meant.

    Args:
        about: how they show it.
    """

    task: str
    system: str
    columns: tuple[str, ...]
    about: str


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of the paper.

    Args:
        benchmark: name of its file in `benchmarks/`.
        judge: as the paper names it.
        decimals: of the printed cells.
        columns: in the order of the printed scores; the last is the task's headline.
        tasks: task -> system -> score of each column, None for a printed dash.
        closed: systems shaded gray in print, whose weights are not public.
        parameters: system -> number of parameters, where the table prints it.
    """

    title: str
    benchmark: str
    judge: str
    decimals: int
    columns: tuple[str, ...]
    tasks: dict[str, dict[str, tuple[float | None, ...]]]
    closed: frozenset[str]
    parameters: dict[str, str]
    slips: tuple[Slip, ...]

    @property
    def systems(self) -> list[str]:
        """In the order of print, each once."""
        return list(dict.fromkeys(system for rows in self.tasks.values() for system in rows))

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for rows in self.tasks.values())


@cache
def published_table(name: str) -> PublishedTable:
    """By the name of its file, such as "table_4".

    Raises:
        ValueError: for a row whose cells are not one a column.
    """
    table = _table(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
    for task, rows in table.tasks.items():
        for system, cells in rows.items():
            if len(cells) != len(table.columns):
                raise ValueError(f"{name}, {task}, {system}: {len(cells)} cells for {len(table.columns)} columns")
    return table


def _table(values: dict[str, Any]) -> PublishedTable:
    return PublishedTable(
        title=values["title"],
        benchmark=values["benchmark"],
        judge=values["judge"],
        decimals=values["decimals"],
        columns=tuple(values["columns"]),
        tasks={
            task: {system: tuple(cells) for system, cells in rows.items()} for task, rows in values["tasks"].items()
        },
        closed=frozenset(values["closed"]),
        parameters=values.get("parameters", {}),
        slips=tuple(Slip(**{**slip, "columns": tuple(slip["columns"])}) for slip in values.get("slips", ())),
    )
