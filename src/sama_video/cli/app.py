"""The command's entry point: every subcommand by name, other editors' option names, errors as one sentence."""

import re
import signal
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import UserError
from .data import data_app
from .edit import demo, edit
from .evaluate import eval_app
from .models import convert, info
from .train import train_app

app = typer.Typer(
    name="sama",
    help="Edit videos by instruction with SAMA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# What other editors call the same options. Every option may also be written with underscores.
ALIASES = {
    "--src-video": "--video",
    "--video-path": "--video",
    "--instruction": "--prompt",
    "--sample-steps": "--num-inference-steps",
    "--infer-steps": "--num-inference-steps",
    "--steps": "--num-inference-steps",
    "--cfg-scale": "--guidance-scale",
    "--sample-guide-scale": "--guidance-scale",
    "--sigma-shift": "--flow-shift",
    "--sample-shift": "--flow-shift",
    "--max-frames": "--num-frames",
    "--frame-num": "--num-frames",
    "--base-seed": "--seed",
    "--save-file": "--output",
    "--output-dir": "--output",
    "--lora-path": "--lora",
    "--model-path": "--model",
}


def _other_names() -> str:
    """One paragraph for each option that has other names."""
    options = list(dict.fromkeys(ALIASES.values()))
    names = {option: [alias for alias in ALIASES if ALIASES[alias] == option] for option in options}
    lines = [f"{option}: also {', '.join(names[option])}" for option in options]
    return "\n\n".join([*lines, "--size WIDTHxHEIGHT: for --width and --height"])


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def sama(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Edit videos by instruction with SAMA."""


app.command(epilog=_other_names())(edit)
for command in (demo, info, convert):
    app.command()(command)
app.add_typer(train_app, name="train")
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")


def normalise_arguments(arguments: list[str]) -> list[str]:
    """Other editors' option names, underscores and `--size 832*480` in this command's own words."""
    result = []
    pending = iter(arguments)
    for argument in pending:
        if argument == "--":
            return [*result, argument, *pending]
        if not argument.startswith("--"):
            result.append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        name = ALIASES.get(name, name)
        if name == "--size":
            size = re.fullmatch(r"(\d+)[*xX](\d+)", value if equals else next(pending, ""))
            if size is None:
                raise UserError("--size takes WIDTHxHEIGHT, for example --size 832x480")
            result += ["--width", size[1], "--height", size[2]]
        else:
            result.append(name + equals + value)
    return result


def main() -> None:
    """Entry point: bad input ends with one sentence and exit code 2, SIGTERM with nothing half-written and 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app(args=normalise_arguments(sys.argv[1:]))
    except UserError as error:
        typer.echo(f"sama: {error}", err=True)
        sys.exit(2)
