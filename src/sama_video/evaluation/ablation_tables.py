"""An ablation's finished runs -> tables beside the paper's, and the curves of their losses.

Every variant is one row over all its seeds. Intervals draw items, each with all its seeds, since edits of one source
rise and fall together; what another seed would give they do not say, and the tables by seed show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..system.errors import UserError
from ..system.files import make_folder, written_aside
from ..system.workers import Progress
from ..training.ablations import LOSSES, Ablation, AblationRun, settled_losses
from ..training.logs.plot import plot_groups
from .aggregate import Counts, TaskScores
from .held_out import HeldOut, stage_scores, unedited_table
from .published import paper_apart, published_table
from .report import exact_tables
from .statistics import Interval, mean_intervals
from .tables import Column, Table, TableRow, csv_text, markdown_text, rendered

TABLES, NUMBERS, CURVES = "ablation.md", "ablation.csv", "curves.png"
_SEEDS_NOTE = "Intervals draw items, each with all its seeds; what another seed would give, the table by seed shows."
_OTHER_SCALE = (
    "A judge's scores of large models: compare the order of the rows and which differences are clear, no more."
)
_LOSS_HEADS = {"flow_loss": "velocity loss", "semantic_loss": "semantic loss"}
_LOSSES_NOTE = (
    "Mean and standard deviation over the last quarter of the stage's steps; in brackets: 95% interval over seeds."
)


def write_ablation(
    ablation: Ablation,
    runs: Sequence[AblationRun],
    out: Path,
    held_out: HeldOut | None,
    progress: Progress = lambda *_: None,
) -> list[Table]:
    """Score what is finished, and write `ablation.md`, `ablation.csv` and `curves.png` into `out`; returns the tables.

    Args:
        runs: of the ablation, finished or not.
        held_out: what the exports edit; None leaves the losses and the paper's numbers.

    Raises:
        UserError: if no run is finished, for an export that cannot be loaded, or without OpenCV or matplotlib.
    """
    finished = _comparable(ablation, runs)
    if not finished:
        raise UserError(f"no run of {out} is finished yet; wait for the first, or use `resume`")
    tables = ablation_tables(ablation, finished, held_out, progress)
    make_folder(out)
    about = (_about(finished, runs), "" if held_out is None else _about_items(held_out))
    texts = {
        TABLES: rendered("report.md", markdown_text, title=ablation.title, about=filter(None, about), tables=tables),
        NUMBERS: csv_text(tables),
    }
    for name, text in texts.items():
        with written_aside(out / name) as aside:
            aside.write_text(text, encoding="utf-8", newline="\n")
    plot_groups(_curves(ablation, finished), out / CURVES, metrics=LOSSES)
    return tables


def _comparable(ablation: Ablation, runs: Sequence[AblationRun]) -> list[AblationRun]:
    """Finished runs of the seeds that all variants have finished, or of the first seed while none is: a row over more
    seeds than another would not be its like."""
    finished = [run for run in runs if run.is_finished]
    seeds = [run.seed for run in finished]
    complete = {seed for seed in seeds if seeds.count(seed) == len(ablation.variants)} or set(seeds[:1])
    return [run for run in finished if run.seed in complete]


def ablation_tables(
    ablation: Ablation, finished: Sequence[AblationRun], held_out: HeldOut | None, progress: Progress
) -> list[Table]:
    """Scores after the last stage, the paper's, then after the stages before; losses."""
    numbers = range(len(finished[0].stages))
    exact: list[Table] = []
    if held_out is not None:
        for number in reversed(numbers):
            exact += _exact_tables(ablation, finished, number, held_out, progress)
        exact.append(unedited_table(held_out))
    printed = [paper_apart(published_table(ablation.published), _OTHER_SCALE)] if ablation.published else []
    losses = [_loss_table(ablation, finished, number) for number in numbers]
    return [*exact[:1], *printed, *exact[1:], *losses]


def _by_variant(ablation: Ablation, runs: Sequence[AblationRun]) -> dict[str, list[AblationRun]]:
    """Runs of every variant that has one, by its title, in the ablation's order."""
    groups = {one.title: [run for run in runs if run.variant.name == one.name] for one in ablation.variants}
    return {title: of_variant for title, of_variant in groups.items() if of_variant}


# Exact scores


def _exact_tables(
    ablation: Ablation, runs: Sequence[AblationRun], number: int, held_out: HeldOut, progress: Progress
) -> list[Table]:
    """After a stage: all edits together, how the variants differ in them, every family; the same for every seed."""

    def scores_of(run: AblationRun) -> list[TaskScores]:
        told = _renamed(progress, f"scoring {run.folder.name}")
        return stage_scores(run.stages[number], run.folders[number], held_out, told)

    scored = {
        title: {run.seed: scores_of(run) for run in of_variant}
        for title, of_variant in _by_variant(ablation, runs).items()
    }
    variants = {title: _joined(seeds) for title, seeds in scored.items()}
    each = {f"{title}, seed {seed}": tasks[-1:] for title, seeds in scored.items() for seed, tasks in seeds.items()}
    after = f"after stage {number}" + (" (zero-shot)" if number == 0 and len(runs[0].stages) > 1 else "")
    tables = [replace(one, notes=(*one.notes, _SEEDS_NOTE)) for one in exact_tables(variants)]
    by_seed = replace(exact_tables(each)[0], title="Exact scores: by seed")
    return [replace(one, title=f"{one.title}, {after}") for one in (*tables, by_seed)]


def _renamed(progress: Progress, phase: str) -> Progress:
    return lambda _, done, of: progress(phase, done, of)


def _joined(seeds: Mapping[int, Sequence[TaskScores]]) -> list[TaskScores]:
    """The items of all seeds as one, task by task; those of one source are one cluster."""
    return [
        replace(
            parts[0],
            items=tuple(f"{seed} {item}" for seed, one in zip(seeds, parts, strict=True) for item in one.items),
            clusters=tuple(cluster for one in parts for cluster in one.clusters),
            scores=np.concatenate([one.scores for one in parts]),
            counts=sum((one.counts for one in parts), Counts(ok=0, missing=0, failed=0)),
        )
        for parts in zip(*seeds.values(), strict=True)
    ]


# Losses


def _loss_table(ablation: Ablation, runs: Sequence[AblationRun], number: int) -> Table:
    rows = [
        TableRow(name=title, cells=tuple(_loss_cells(of_variant, number)))
        for title, of_variant in _by_variant(ablation, runs).items()
    ]
    heads = [head for name in LOSSES for head in (_LOSS_HEADS[name], "its deviation")]
    return Table(
        title=f"Losses at the end of stage {number}",
        columns=tuple(Column(name=head, better="lower") for head in heads),
        rows=tuple(rows),
        decimals=4,
        notes=(_LOSSES_NOTE,),
    )


def _loss_cells(runs: Sequence[AblationRun], number: int) -> list[Interval | None]:
    found = [settled_losses(run.folders[number]) for run in runs]
    nothing = (np.nan, np.nan)
    columns = np.array([[value for name in LOSSES for value in one.get(name, nothing)] for one in found])
    intervals = mean_intervals(columns, [str(run.seed) for run in runs])
    return [None if np.isnan(one.value) else one for one in intervals]


def _curves(ablation: Ablation, runs: Sequence[AblationRun]) -> dict[str, dict[str, list[Path]]]:
    names = [f"stage {number}" for number in range(len(runs[0].stages))]
    groups = _by_variant(ablation, runs)
    return {
        name: {title: [run.folders[number] for run in of_variant] for title, of_variant in groups.items()}
        for number, name in enumerate(names)
    }


def _about(finished: Sequence[AblationRun], runs: Sequence[AblationRun]) -> str:
    seeds = ", ".join(map(str, sorted({run.seed for run in finished})))
    steps = ", ".join(f"{stage.loop.num_steps} steps of {stage.name}" for stage in finished[0].stages)
    return f"{len(finished)} of {len(runs)} runs. Seeds: {seeds}. Each run: {steps}."


def _about_items(held_out: HeldOut) -> str:
    frames, height, width = held_out.shape
    return (
        f"Scored on {len(held_out.items)} edits of the engine that no run saw, {held_out.per_family} of each family "
        f"({', '.join(held_out.engine.families)}), {frames} frames of {width}x{height}: the taught drawings in scenes, "
        "textures and words of the test split. Averaged weights, the model's own sampling."
    )
