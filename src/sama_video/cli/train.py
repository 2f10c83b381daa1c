"""`sama train`: runs by recipe, and their curves."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .console import remark
from .options import in_options

RECIPE = "RECIPE"


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

        lines = ["Recipes:", *describe_recipes(), "Other commands:", "sama train plot RUN... --out curves.png"]
        self.epilog = "\n\n".join(lines)
        super().format_help(ctx, formatter)


train_app = typer.Typer(cls=TrainGroup, add_completion=False)


@train_app.callback()
def train() -> None:
    """Train an editor: sama train smoke --out runs/smoke."""


@train_app.command(RECIPE, cls=RecipeCommand)
def run_recipe(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe, see below.")] = None,
    config: Annotated[Path | None, typer.Option(help="Instead of a recipe: YAML or JSON, like config.json.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Only --dry-run does without.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the config; repeatable.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the newest complete checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the whole config and what the run would take.")] = False,
    device: Annotated[str, typer.Option(help="For --dry-run: such as h100-80gb; auto measures this one.")] = "auto",
    num_devices: Annotated[int, typer.Option(help="For --dry-run.")] = 1,
    mfu: Annotated[float, typer.Option(help="For --dry-run: assumed share of the peak arithmetic.")] = 0.4,
    peak_tflops: Annotated[float | None, typer.Option(help="For --dry-run: instead of the device's.")] = None,
) -> None:
    """Train an editor: sama train smoke --out runs/smoke."""
    from ..system.errors import UserError
    from ..training.overrides import find_stages

    stages = find_stages(recipe, settings or [], config)
    if dry_run:
        from ..training.estimate import describe_stages

        lines = describe_stages(stages, device=device, num_devices=num_devices, mfu=mfu, peak_tflops=peak_tflops)
        typer.echo("\n".join(lines).rstrip())
        return
    if out is None:
        raise UserError("say where the run is to be saved: --out FOLDER")

    from ..training.stages import run_stages
    from ..training.trainer import TrainingStoppedError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        exported = run_stages(stages, out, resume=resume)
    except TrainingStoppedError as error:
        remark(f"sama: {in_options(str(error))}")
        sys.exit(error.exit_code)
    if exported is not None:
        typer.echo(f"the trained model: {exported}")


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
