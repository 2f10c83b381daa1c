"""What operating systems do in different ways, once: memory, processes with all that they start, folders on disk."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory() -> int:
    """The most bytes of main memory that this process has held."""
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    held = psutil.Process().memory_info()
    return getattr(held, "peak_wset", held.rss)  # Windows' name for it


def give_back_memory() -> None:
    """Let the system have what glibc's allocator keeps of freed memory; elsewhere without effect.

    Blocks of many sizes leave holes that no block fits: a long run would hold more and more of them.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that was started with `start_new_session=True`, and all that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
        return
    try:
        group = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for member in group:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def split_command(text: str) -> list[str]:
    """The arguments of a command line: quotes join them and, except on Windows, a backslash escapes.

    Raises:
        ValueError: for a quote that is not closed.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    if os.name == "nt":
        words.escape = ""
    return list(words)


def flush_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk, where the system can be asked for that."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
