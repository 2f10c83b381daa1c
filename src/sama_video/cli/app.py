"""The command's entry point: every subcommand by name, other editors' option names, errors as one sentence."""

import errno
import io
import logging
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from .. import __version__
from ..system.errors import UserError
from .console import DEBUG, PIPE_CLOSED, TerminatedError, exit_code, is_closed_pipe, remark, sentence, show_trace
from .data import data_app
from .edit import demo, edit
from .evaluate import eval_app
from .models import convert, info, push
from .options import ALIASES, parse_size
from .serve import serve
from .train import train_app


class _CarriedError(Exception):
    """An error on its way to `main`: typer would end the program without a word at some of them."""

    def __init__(self, error: BaseException):
        super().__init__(str(error))
        self.error = error


class SamaGroup(TyperGroup):
    """Leaves Ctrl-C and broken pipes to `main`."""

    def invoke(self, ctx: Any) -> Any:
        """As any group's."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError) as error:
            raise _CarriedError(error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise _CarriedError(error) from error
            raise


app = typer.Typer(
    name="sama",
    cls=SamaGroup,
    help="Edit videos by instruction with SAMA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


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


def _set_debugging(wanted: bool) -> None:
    if wanted:
        os.environ[DEBUG] = "1"  # so that processes that help know it too


@app.callback()
def sama(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", callback=_set_debugging, is_eager=True, help="Show where an error comes from; anywhere."
        ),
    ] = False,
) -> None:
    """Edit videos by instruction with SAMA."""


app.command(epilog=_other_names())(edit)
for command in (demo, info, convert, push, serve):
    app.command()(command)
app.command("studio")(serve)
app.add_typer(train_app, name="train")
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")


def normalise_arguments(arguments: list[str]) -> list[str]:
    """Other editors' option names, underscores, `--size 832*480`, `--debug` anywhere: in this command's own words."""
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
        if name == "--debug":
            result.insert(0, name)
        elif name == "--size":
            size = parse_size(value if equals else next(pending, ""))
            if size is None:
                raise UserError("--size takes WIDTHxHEIGHT, for example --size 832x480")
            result += ["--width", str(size[0]), "--height", str(size[1])]
        else:
            result.append(name + equals + value)
    return result


def _terminate(*_: object) -> NoReturn:
    raise TerminatedError


def main() -> None:
    """Entry point. Exit codes: 0 done; 1 something failed on the way; 2 bad input, one sentence says what; 130 and 143
    after Ctrl-C and SIGTERM, which leave nothing half-written."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    signal.signal(signal.SIGTERM, _terminate)
    # peft imports it where it is installed, and it complains of kernels that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app(args=normalise_arguments(sys.argv[1:]))
    except (Exception, KeyboardInterrupt) as error:
        _end(error.error if isinstance(error, _CarriedError) else error)


def _end(error: BaseException) -> NoReturn:
    """Says what happened, and exits."""
    if is_closed_pipe(error):
        for stream in (sys.stdout, sys.stderr):  # or Python complains when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(PIPE_CLOSED)
    show_trace(error)
    remark(f"sama: {sentence(error)}")
    sys.exit(exit_code(error))
