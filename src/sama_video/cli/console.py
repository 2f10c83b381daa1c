"""What a command says: text that any terminal can show, errors as one sentence, and what they end with."""

import errno
import os
import select
import signal
import sys
import traceback
from typing import TextIO

import typer

from ..system.errors import UserError
from ..system.files import FULL
from .options import in_options

DEBUG = "SAMA_DEBUG"
_BAD_INPUT, FAILED, _INTERRUPTED, _TERMINATED = 2, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
# A reader that wants no more, as `head`; shells say the same of a command that the signal ended.
PIPE_CLOSED = 128 + 13
_LONGEST_REASON = 500


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: ends the work as Ctrl-C does, with an exit code of its own."""


def printable(text: str) -> str:
    """Line breaks, control characters and bytes that are no text, as names of files may hold, spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """A line of the command's output."""
    typer.echo(printable(text))


def remark(text: str) -> None:
    """A line beside the output."""
    typer.echo(printable(text), err=True)


def is_debugging() -> bool:
    return os.environ.get(DEBUG, "").lower() not in ("", "0", "false", "no")


def show_trace(error: BaseException) -> None:
    """With --debug, where an error came from."""
    if is_debugging():
        traceback.print_exception(error, file=sys.stderr)


def exit_code(error: BaseException) -> int:
    """2 for what the user can put right, 1 for what failed, 130 and 143 for Ctrl-C and SIGTERM."""
    if isinstance(error, TerminatedError):
        return _TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    return _BAD_INPUT if isinstance(error, UserError) or _is_about_files(error) else FAILED


def sentence(error: BaseException) -> str:
    """Any error in one sentence."""
    notes = getattr(error, "__notes__", [])
    if isinstance(error, UserError):
        return in_options("; ".join([str(error), *notes]))
    if isinstance(error, KeyboardInterrupt):
        return in_options("; ".join(notes)) or "stopped"
    if _is_out_of_memory(error):
        return (
            "out of memory; close other programs, or make the work smaller (sama edit: --max-pixels, --num-frames, "
            "--memory low, --storage-dtype)"
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return "the disk is full; free some space and start the same command again"
    if _is_about_files(error):
        assert isinstance(error, OSError)
        return f"{error.strerror}: {os.fsdecode(error.filename)}; check the path and its permissions"
    return (
        f"unexpected error: {_in_short(error)}; this is a fault in the program: run the same command with --debug for "
        "the trace, and report it"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """torch has an error of its own for an accelerator's memory, and none for the machine's."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


def _is_about_files(error: BaseException) -> bool:
    if not isinstance(error, OSError):
        return False
    return error.errno in FULL or (error.strerror is not None and isinstance(error.filename, (str, bytes)))


def _in_short(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def is_closed_pipe(error: BaseException) -> bool:
    """Whether nobody reads the command's output any more; the pipes of others break too."""
    if not (isinstance(error, OSError) and error.errno == errno.EPIPE):
        return False
    return any(_is_unread(stream) for stream in (sys.stdout, sys.stderr))


def _is_unread(stream: TextIO) -> bool:
    poll = select.poll()  # Windows has none, and no EPIPE either
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
