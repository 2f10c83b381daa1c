"""`sama` in processes of its own, forked from one that has imported everything: none waits for imports."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# Forked from a process that runs no threads: what is killed dies in its work, not while it starts.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "sama_video.cli.app",
        "sama_video.curation.curate",
        "sama_video.data.check",
        "sama_video.editing.editor",
        "sama_video.evaluation.exact",
        "sama_video.evaluation.report",
        "sama_video.pipelines.loading",
        "sama_video.training.caching",
        "sama_video.training.stages",
        "cv2",
        "matplotlib.figure",
        "openai",
        "pandas",
        "pydantic",
        "torch.utils.tensorboard",
        "tests.commands",
        "tests.training.processes",
    ]
)


def _prepare(folder: str, files: Sequence[str], environment: Mapping[str, str]) -> None:
    """Makes of a forked process what a shell would have started."""
    import torch

    for descriptor, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.set_start_method(None, force=True)  # a process of a fork server would have the server start others
    torch.set_num_threads(1)


def _sama(arguments: Sequence[str], *place) -> None:
    from sama_video.cli.app import main

    _prepare(*place)
    sys.argv = ["sama", *arguments]
    main()


def _python(code: str, *place) -> None:
    _prepare(*place)
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def _start(function, what, cwd: Path | None, env: Mapping[str, str] | None, files: Sequence[object]) -> BaseProcess:
    place = str(cwd or Path.cwd()), [str(path) for path in files], dict(os.environ if env is None else env)
    process = FORKSERVER.Process(target=function, args=(what, *place))
    process.start()
    return process


def start_sama(
    arguments: Sequence[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    files: Sequence[object] = (os.devnull, os.devnull),
) -> BaseProcess:
    """Starts `sama`; `files` get what it writes to standard output and standard error."""
    return _start(_sama, [str(argument) for argument in arguments], cwd, env, files)


def start_python(code: str) -> BaseProcess:
    """Starts `python -c code`; what it writes is dropped."""
    return _start(_python, code, None, None, (os.devnull, os.devnull))


def _completed(function, what, cwd: Path | None, env: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "out"), Path(folder, "err")
        process = _start(function, what, cwd, env, files)
        process.join()
        assert process.exitcode is not None
        out, err = (path.read_text(errors="surrogateescape") for path in files)
    return subprocess.CompletedProcess([what], process.exitcode, out, err)


def sama(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run(["sama", *arguments], capture_output=True, text=True)`."""
    return _completed(_sama, [str(argument) for argument in arguments], cwd, env)


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run(["python", "-c", code], capture_output=True, text=True)`."""
    return _completed(_python, code, cwd, None)


def ended_by(process: BaseProcess, signal_number: int | None = None) -> int:
    """Sends a process the signal, SIGKILL if None, if it still runs, and waits for its end. Returns its exit code."""
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL if signal_number is None else signal_number)
    process.join()
    assert process.exitcode is not None
    return process.exitcode
