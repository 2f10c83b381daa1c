"""What systems do in different ways, with the facilities of Unix taken away as on Windows."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sama_video.system import platforms as system
from sama_video.system.devices import device_memory, free_memory

GROWN = """
import time, sys, subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])
print(child.pid, flush=True)
time.sleep(900)
"""

# What Windows' Python does not have, of all that is on this system; taken away after the libraries, which know better.
WITHOUT_UNIX = """
import asyncio, importlib, multiprocessing, os, pkgutil, signal, subprocess, sys, tempfile
import accelerate, av, diffusers, filelock, huggingface_hub, peft, psutil, torch, torch.distributed.checkpoint
import torch.utils.data, transformers, typer, rich.console
for name in ("sysconf", "killpg", "getpgid", "setsid", "setpgid", "fork", "uname", "getuid", "geteuid", "getgid",
             "sched_getaffinity", "sched_setaffinity", "O_DIRECTORY", "getloadavg", "mkfifo", "nice", "chown", "pread",
             "statvfs", "ttyname", "wait3", "openpty", "posix_fadvise", "sync", "pathconf"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGQUIT", "alarm",
             "setitimer", "pthread_sigmask", "sigwait", "sigwaitinfo", "SIG_BLOCK"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix_ipc"):
    sys.modules[name] = None
"""

IMPORT_ALL = """
import sama_video
for module in pkgutil.walk_packages(sama_video.__path__, "sama_video."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

EDIT_AND_TRAIN = """
import pathlib, numpy
from tests import tiny
from tests.training import runs
pipe = tiny.pipeline()
video = numpy.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=numpy.uint8)
frames = pipe(video=video, prompt="make it red", num_inference_steps=2, guidance_scale=5.0).frames
assert frames.shape == (1, 5, 32, 32, 3)
folder = pathlib.Path(sys.argv[1])
runs.write_models(folder)
trainer = runs.trained(runs.config(folder, semantic=False), folder / "run")
trainer.export(folder / "export")
assert (folder / "export" / "model_index.json").is_file()
from sama_video.training.logs.runlog import memory_gib, read_metrics
assert memory_gib() > 0.1
"""


def run_without_unix(code, *arguments):
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX + code, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_all_modules_import_and_edits_with_guidance_and_training_run_without_unix(tmp_path):
    result = run_without_unix(IMPORT_ALL + EDIT_AND_TRAIN, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]


def test_memory_is_what_the_system_says():
    if hasattr(os, "sysconf"):
        assert device_memory("cpu") == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device_memory("cpu") > system.peak_memory()
    assert device_memory("cpu") > free_memory("cpu") > 0


@pytest.mark.parametrize("without_resource", [False, True])
def test_peak_memory_covers_what_is_held(without_resource, monkeypatch):
    if without_resource:
        monkeypatch.setattr(system, "resource", None)
    ballast = bytearray(50 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    held = psutil.Process().memory_info().rss
    assert 0.9 * held < system.peak_memory() < held + 8 * 2**30
    assert len(ballast) < system.peak_memory()


@pytest.mark.parametrize("without_killpg", [False, True])
def test_a_process_ends_with_all_that_it_started(without_killpg, monkeypatch):
    if without_killpg:
        monkeypatch.delattr(os, "killpg", raising=False)
    process = subprocess.Popen([sys.executable, "-c", GROWN], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    system.kill_group(process)
    process.communicate()
    deadline = time.monotonic() + 300
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)
    assert process.returncode != 0


def test_a_process_that_is_gone_is_no_error(monkeypatch):
    monkeypatch.delattr(os, "killpg", raising=False)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    system.kill_group(process)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("without_folders", [False, True])
def test_a_folder_is_flushed_where_that_exists(without_folders, tmp_path, monkeypatch):
    if without_folders:
        monkeypatch.delattr(os, "O_DIRECTORY")
    system.flush_folder(tmp_path)
    if not without_folders:
        with pytest.raises(FileNotFoundError):
            system.flush_folder(tmp_path / "missing")


@pytest.mark.parametrize("text", ["a 'b c' \"d e\" f\\ g", 'edit --prompt "it\'s" # no comment', "  a  ", ""])
def test_a_command_line_is_split_as_a_shell_does(text):
    assert system.split_command(text) == shlex.split(text)


def test_a_backslash_is_a_part_of_names_on_windows(monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        words = system.split_command(r'C:\tools\edit.exe "C:\my clips\a.mp4" {output}')
    assert words == [r"C:\tools\edit.exe", r"C:\my clips\a.mp4", "{output}"]
