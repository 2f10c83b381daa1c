"""`sama train`: runs by recipe."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the config; repeatable.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest complete checkpoint.")] = False,
) -> None:
    """Train an editor: sama train smoke --out runs/smoke."""
    from ..training.config import with_settings
    from ..training.recipes import find_recipe
    from ..training.run import run_stages
    from ..training.trainer import TrainingStoppedError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stages = [with_settings(stage, settings or []) for stage in find_recipe(recipe)]
    try:
        exported = run_stages(stages, out, resume=resume)
    except TrainingStoppedError as error:
        typer.echo(f"sama: {error}", err=True)
        sys.exit(3)
    typer.echo(f"the trained model: {exported}")
