"""`sama train`: runs by recipe, ablations, and their curves."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .console import remark
from .options import in_options

if TYPE_CHECKING:
    from ..training.ablations import Ablation, AblationRun
    from ..training.config import TrainConfig

RECIPE = "RECIPE"
_ABLATION = "ablation-"
# What the ablations' commands compare where no recipe is named.
_ABLATED = "nano-small"


class TrainGroup(TyperGroup):
    """`sama train smoke` runs a recipe, `sama train plot` is a command: what names no command is for the recipes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the recipes' command before them where they name none."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else [RECIPE, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Messages show the recipes' command as the user writes it, without a name of its own."""
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == RECIPE else name), command, rest


class RecipeCommand(TyperCommand):
    """Its help lists the recipes; they are imported for that alone."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As any command's, with the recipes and the other commands below."""
        from ..training.recipes import describe_recipes

        lines = ["Recipes:", *describe_recipes(), "Other commands:", *_OTHERS]
        self.epilog = "\n\n".join(lines)
        super().format_help(ctx, formatter)


_OTHERS = (
    "sama train ablation-components --out OUT: Table 5's four variants, with seeds, scores, tables and curves",
    "sama train ablation-roles --out OUT: Table 6's two variants",
    "sama train ablation-source-attention --out OUT: a source that everything changes, and one that is computed once",
    "sama train plot RUN... --out curves.png",
)
train_app = typer.Typer(cls=TrainGroup, add_completion=False)


@train_app.callback()
def train() -> None:
    """Train an editor: sama train smoke --out runs/smoke."""


_Config = Annotated[Path | None, typer.Option(help="Instead of a recipe: YAML or JSON, like config.json.")]
_Out = Annotated[Path | None, typer.Option(help="Folder of the run. Only --dry-run does without.")]
_Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the config; repeatable.")]
_Resume = Annotated[bool, typer.Option(help="Continue from the newest complete checkpoint.")]
_DryRun = Annotated[bool, typer.Option(help="Print the whole config and what the run would take.")]
_DryDevice = Annotated[str, typer.Option(help="For --dry-run: such as h100-80gb; auto measures this one.")]
_NumDevices = Annotated[int, typer.Option(help="For --dry-run.")]
_Mfu = Annotated[float, typer.Option(help="For --dry-run: assumed share of the peak arithmetic.")]
_PeakTflops = Annotated[float | None, typer.Option(help="For --dry-run: instead of the device's.")]


@train_app.command(RECIPE, cls=RecipeCommand)
def run_recipe(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe, see below.")] = None,
    config: _Config = None,
    out: _Out = None,
    settings: _Settings = None,
    resume: _Resume = False,
    dry_run: _DryRun = False,
    device: _DryDevice = "auto",
    num_devices: _NumDevices = 1,
    mfu: _Mfu = 0.4,
    peak_tflops: _PeakTflops = None,
) -> None:
    """Train an editor: sama train smoke --out runs/smoke."""
    from ..training.overrides import find_stages

    stages = find_stages(recipe, settings or [], config)
    if dry_run:
        _estimate(stages, device=device, num_devices=num_devices, mfu=mfu, peak_tflops=peak_tflops)
        return
    exported = _train(_with_weights(stages, _named(out)), _named(out), resume)
    if exported is not None:
        typer.echo(f"the trained model: {exported}")


def ablate(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="What is varied.")] = None,
    config: _Config = None,
    out: _Out = None,
    settings: _Settings = None,
    seeds: Annotated[int, typer.Option(help="Runs of every variant, with seeds from loop.seed on.")] = 2,
    items: Annotated[int, typer.Option(help="Edits of each family that every model is scored on.")] = 16,
    resume: _Resume = False,
    dry_run: _DryRun = False,
    device: _DryDevice = "auto",
    num_devices: _NumDevices = 1,
    mfu: _Mfu = 0.4,
    peak_tflops: _PeakTflops = None,
    *,
    context: typer.Context,
) -> None:
    """Train every variant of a recipe with every seed, score all of them on the same edits, and draw the tables.

    Finished runs are left as they are. Called again, the command scores and draws what is there.
    """
    from ..training.ablations import ABLATIONS, ablation_runs
    from ..training.overrides import find_stages

    ablation = ABLATIONS[str(context.command.name).removeprefix(_ABLATION)]
    stages = find_stages(recipe if recipe or config else _ABLATED, settings or [], config)
    if dry_run:
        for run in ablation_runs(ablation, stages, Path(), 1):
            typer.echo(f"## {run.variant.title}, one of {seeds} seeds\n")
            _estimate(run.stages, device=device, num_devices=num_devices, mfu=mfu, peak_tflops=peak_tflops)
        return
    _run_ablation(ablation, ablation_runs(ablation, stages, _named(out), seeds), _named(out), items, resume)


for _name in ("components", "roles", "source-attention"):
    train_app.command(f"{_ABLATION}{_name}")(ablate)


def _run_ablation(ablation: "Ablation", runs: "Sequence[AblationRun]", out: Path, items: int, resume: bool) -> None:
    from ..evaluation.ablation_tables import TABLES, write_ablation
    from ..evaluation.held_out import held_out_of, unedited_scores
    from ..evaluation.tables import console
    from ..training.ablations import check_runs
    from ..training.logs.plot import find_matplotlib
    from .progress import ProgressBar

    # 1. What would stop the set after hours
    held_out = held_out_of(runs[0].stages[-1], items)
    find_matplotlib()
    if held_out is not None:
        unedited_scores(held_out)
    runs = [replace(run, stages=_with_weights(run.stages, out, as_wan=ablation.as_wan)) for run in runs]
    check_runs(runs, resume=resume)

    # 2. Every run, and the tables of what is finished so far
    tables = []
    for run in runs:
        if not run.is_finished and _train(run.stages, run.folder, resume) is None:
            continue  # of several processes the first does what is left
        with ProgressBar() as progress:
            tables = write_ablation(ablation, runs, out, held_out, progress)
    typer.echo("\n".join(map(console, tables[:2])))
    typer.echo(str(out / TABLES))


def _named(out: Path | None) -> Path:
    from ..system.errors import UserError

    if out is None:
        raise UserError("say where the run is to be saved: --out FOLDER")
    return out


def _estimate(stages: "list[TrainConfig]", **options: Any) -> None:
    from ..training.estimate import describe_stages

    typer.echo("\n".join(describe_stages(stages, **options)).rstrip())


def _with_weights(stages: "list[TrainConfig]", out: Path, *, as_wan: bool = False) -> "list[TrainConfig]":
    """The same stages; where the first begins untrained, from weights of its seed, made in `out` if they are not there.

    Raises:
        UserError: for untrained weights without a dataset of the engine, whose words they know.
    """
    from ..system.errors import UserError
    from ..system.files import make_folder
    from ..training.recipes import UNTRAINED

    first = stages[0]
    if first.model.init != UNTRAINED:
        return stages
    folder = out / f"{'as-wan' if as_wan else UNTRAINED}-{first.loop.seed}"
    if not folder.exists():
        from ..nano.parts import new_nano
        from ..training.mixture import build_engine

        engines = [one.engine for one in first.data.datasets if one.engine is not None]
        if not engines:
            raise UserError(f"model.init={UNTRAINED} is for the engine's data; name a model's folder")
        remark(f"sama: making untrained weights in {folder}")
        make_folder(out)
        new_nano(
            folder,
            build_engine(engines[0], "train", out / "films"),
            codec="nano",
            preset=first.model.preset or "nano",
            seed=first.loop.seed,
            as_wan=as_wan,
            num_texts=2000,  # of the few words of a small engine
            num_latents=60,
        )
    return [first.started_from(str(folder)), *stages[1:]]


def _train(stages: "list[TrainConfig]", out: Path, resume: bool) -> Path | None:
    """The last export; ends the command where the training was stopped."""
    from ..training.stages import run_stages
    from ..training.trainer import TrainingStoppedError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return run_stages(stages, out, resume=resume)
    except TrainingStoppedError as error:
        remark(f"sama: {in_options(str(error))}")
        sys.exit(error.exit_code)


@train_app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, --out of sama train.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .svg or .pdf.")] = Path("curves.png"),
    metric: Annotated[
        list[str] | None, typer.Option(help="Such as loss or validation/all/psnr; repeatable. Default: the usual ones.")
    ] = None,
    smooth: Annotated[int, typer.Option(help="Steps that mean and spread are taken over.")] = 50,
) -> None:
    """Draw the curves of several runs, smoothed, with their spread."""
    from ..training.logs.plot import plot_runs

    drawn = plot_runs(runs, out, metrics=metric or (), window=smooth)
    typer.echo(f"{', '.join(drawn)}: {out}")
