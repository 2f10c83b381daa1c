"""Ablations, the paper's (Tables 5 and 6) and our own, as sets of runs: a variant is a function of a recipe's stages.

The runs of one seed begin with the same weights and draw the same samples, noise and order; they differ in their
variant and in nothing else. Every run is an ordinary one in a folder of its own, `OUT/VARIANT-SEED`, which
`training.stages` trains, stops and resumes. docs/decisions/ablations.md says what the variants are and why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..system.errors import UserError
from .claim import check_config, read_config_of
from .config import TrainConfig
from .logs.plot import series
from .logs.runlog import METRICS, read_metrics
from .stages import linked

LOSSES = ("flow_loss", "semantic_loss")
_SETTLED = 0.25  # of a stage's steps, the last, that its losses are taken over


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One line of an ablation's table.

    Args:
        name: part of its runs' folders.
        title: in tables and curves.
        change: a stage of the recipe -> the same stage of this variant.
    """

    name: str
    title: str
    change: Callable[[TrainConfig], TrainConfig]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A question, of the paper or our own.

    Args:
        variants: what the others are compared with comes first.
        published: name of the paper's table in `evaluation/published`; None where it has none.
        as_wan: whether untrained weights must not tell source and target apart yet, see `nano.parts.new_nano`.
    """

    title: str
    variants: tuple[Variant, ...]
    published: str | None
    as_wan: bool = False


def _components(*, anchoring: bool, alignment: bool) -> Callable[[TrainConfig], TrainConfig]:
    """Without a semantic encoder there is no Semantic Anchoring, without pretext tasks no Motion Alignment."""
    model: dict[str, Any] = {} if anchoring else {"semantic_encoder": None}
    data: dict[str, Any] = {} if alignment else {"pretext": False}
    return lambda stage: stage.changed(model=model, data=data)


def _model(name: str, kind: str) -> Callable[[TrainConfig], TrainConfig]:
    return lambda stage: stage.changed(model={name: kind})


ABLATIONS = {
    "components": Ablation(
        title="Semantic Anchoring and Motion Alignment",
        variants=(
            Variant(name="baseline", title="baseline", change=_components(anchoring=False, alignment=False)),
            Variant(name="sa", title="w/ SA", change=_components(anchoring=True, alignment=False)),
            Variant(name="ma", title="w/ MA", change=_components(anchoring=False, alignment=True)),
            Variant(name="both", title="SAMA", change=_components(anchoring=True, alignment=True)),
        ),
        published="table_5",
    ),
    "roles": Ablation(
        title="Type embeddings and shifted RoPE",
        variants=(
            Variant(name="shifted-rope", title="shifted RoPE", change=_model("roles", "shifted_rope")),
            Variant(name="type", title="type embeddings", change=_model("roles", "type")),
        ),
        published="table_6",
        as_wan=True,
    ),
    "source-attention": Ablation(
        title="Sources that see everything and sources that see themselves alone",
        variants=(
            Variant(name="full", title="full", change=_model("source_attention", "full")),
            Variant(name="self", title="self", change=_model("source_attention", "self")),
        ),
        published=None,
    ),
}


@dataclass(frozen=True, kw_only=True)
class AblationRun:
    """One variant with one seed.

    Args:
        stages: with `model.init` of each as it will be.
    """

    variant: Variant
    seed: int
    folder: Path
    stages: list[TrainConfig]

    @property
    def folders(self) -> list[Path]:
        """Of the stages."""
        return [self.folder / stage.name for stage in self.stages]

    @property
    def is_finished(self) -> bool:
        return all((folder / "export").exists() for folder in self.folders)


def ablation_runs(ablation: Ablation, stages: Sequence[TrainConfig], out: Path, num_seeds: int) -> list[AblationRun]:
    """All runs, seed by seed: a set that was stopped has compared all variants already.

    Args:
        stages: of the recipe; their `loop.seed` is the first seed.
        out: folder of the set.

    Raises:
        UserError: for no seed, or a recipe in which two variants are the same run.
    """
    if num_seeds < 1:
        raise UserError(f"`seeds` must be at least 1, got {num_seeds}")
    variants = {one.name: [one.change(stage) for stage in stages] for one in ablation.variants}
    _check_distinct(variants)
    return [
        _run(variant, variants[variant.name], number, out)
        for number in range(num_seeds)
        for variant in ablation.variants
    ]


def _check_distinct(variants: dict[str, list[TrainConfig]]) -> None:
    names = list(variants)
    for index, name in enumerate(names):
        for other in names[:index]:
            if variants[name] == variants[other]:
                raise UserError(
                    f"{other} and {name} would be the same run: nothing in these stages differs between them; set "
                    "model.semantic_encoder, and data.pretext in the stage with captioned clips"
                )


def _run(variant: Variant, stages: list[TrainConfig], number: int, out: Path) -> AblationRun:
    seed = stages[0].loop.seed + number
    folder = out / f"{variant.name}-{seed}"
    seeded = [stage.changed(loop={"seed": seed}) for stage in stages]
    return AblationRun(variant=variant, seed=seed, folder=folder, stages=[stage for stage, _ in linked(seeded, folder)])


def check_runs(runs: Sequence[AblationRun], *, resume: bool) -> None:
    """Before the first step of any of them: every folder that is there is of its run and its budget.

    Raises:
        UserError: for a folder that holds another run, one that was begun while `resume` is false, and one that was
            trained by other steps or another optimizer, which the table would compare as if it was not.
    """
    for run in runs:
        for stage, folder in zip(run.stages, run.folders, strict=True):
            check_config(stage, folder, resume=resume or run.is_finished)
            found = read_config_of(folder)
            if found is not None and _budget(found) != _budget(stage):
                raise UserError(
                    f"{folder} was begun with another budget (steps, optimizer or average) than this set's; use the "
                    "same settings, or choose another `out`"
                )


def _budget(config: TrainConfig) -> tuple[Any, ...]:
    loop = config.loop
    return loop.num_steps, loop.batches_per_step, loop.ema_decay, loop.ema_warmup, config.optimizer


def settled_losses(folder: Path) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the losses that a stage has, over the last quarter of its steps."""
    records = read_metrics(folder / METRICS)
    found = {name: series(records, name)[1] for name in LOSSES}
    last = {name: values[-max(round(_SETTLED * len(values)), 1) :] for name, values in found.items() if len(values)}
    return {name: (float(np.mean(values)), float(np.std(values))) for name, values in last.items()}
