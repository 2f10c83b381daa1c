"""Outputs are written aside and renamed, so a reader never sees half of one; inputs are known by their hashes."""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

# Hashing 28 GB would take longer than many an edit: larger models are hashed by samples of their files.
_WHOLE_HASH_BYTES = 2 * 2**30
_HASH_BLOCK = 2**22


# What a file system says of a place that cannot take a file; other errors come from what the caller does meanwhile.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENAMETOOLONG)

# What is written is called `.NAME.OWNER.part.SUFFIX` until it is whole, and a folder that makes room `.NAME.OWNER.old`.
# The owner is MACHINE-PID-NUMBER, so that what a killed process left is known for what it is; once it was PID alone.
_ASIDE = re.compile(
    r"\.(?P<name>.+)\."
    r"(?:(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.(?P<kind>part|old)|(?P<lone_pid>\d{1,7})\.part)(?:\.[^.]*)?",
    re.DOTALL,
)
_NUMBERS = itertools.count()
_OPEN: set[Path] = set()


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; renamed to it at the end, removed if anything goes wrong.

    What is at `path` is replaced: a file by a file, a folder by a folder, never one by the other. What killed processes
    left in the same folder is removed first, see `sweep`. The path given is absolute: FFmpeg takes a relative
    `12:30.mp4` for a protocol.

    Raises:
        UserError: for a place that cannot be written, a full disk, a file and a folder in each other's way.
    """
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist; make it or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"the folder {path.parent} is read-only; choose another output")
    folder = Path(os.path.abspath(path.parent))
    _sweep_once(folder)
    aside = folder / _aside_name(path, longest_name(folder))
    _OPEN.add(aside)
    try:
        yield aside
        _put(aside, path)
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"the disk is full: free some space in {path.parent}; nothing was kept") from error
        if _is_about(error, aside) or _is_about(error, path):
            raise UserError(f"cannot write {path} ({error.strerror}); choose another output") from error
        raise
    finally:
        _remove(aside)
        _OPEN.discard(aside)


def is_about_a_full_disk(error: BaseException) -> bool:
    """Whether it is an error of `written_aside` that any other output on the same disk would meet too."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL


def longest_name(folder: Path) -> int:
    """Bytes that a name in an existing folder may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on Windows, and not every file system says
        return 255


def _owner() -> str:
    return f"{_machine()}-{os.getpid()}-{next(_NUMBERS)}"


@functools.cache
def _machine() -> str:
    """Where a process number means something: a machine, and in it a container."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _aside_name(path: Path, longest: int) -> str:
    """The suffix stays, since writers go by it; a name that leaves no room is cut."""
    stem, end = path.stem, f".{_owner()}.part{path.suffix}"
    while len(os.fsencode(f".{stem}{end}")) > longest and len(stem) > 1:
        stem = stem[:-1]
    return f".{stem}{end}"


def sweep(folder: Path) -> None:
    """Removes what processes that are dead left half-written in a folder; one they had moved away comes back.

    What belongs to a living process, to another machine that shares the disk, or to somebody else stays.
    """
    folder = Path(os.path.abspath(folder))
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [folder / entry.name for entry in entries if entry.name.startswith(".")]:
            left = _ASIDE.fullmatch(path.name)
            if left is not None and _is_left(path, left):
                _clear(path, folder / left["name"] if left["kind"] == "old" else None)


@functools.cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def _is_left(path: Path, left: re.Match[str]) -> bool:
    if left["machine"] not in (None, _machine()):
        return False
    pid = int(left["pid"] or left["lone_pid"])
    if pid == os.getpid():  # a number that was given again
        return path not in _OPEN and left["lone_pid"] is None
    return not _is_running(pid)


def _clear(path: Path, moved_from: Path | None) -> None:
    """A kill between the two renames of `_put_folder` leaves the old folder aside, and nothing in its place."""
    if moved_from is not None and not moved_from.exists():
        with contextlib.suppress(OSError):
            os.replace(path, moved_from)
    else:
        _remove(path)


def _is_running(pid: int) -> bool:
    """Not one that ended and that nobody has waited for: a container's first process often waits for none."""
    import psutil

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def _is_about(error: OSError, path: Path) -> bool:
    if error.filename is None:  # as FFmpeg's, while it writes
        return error.errno in _UNWRITABLE
    return Path(os.fsdecode(error.filename)).is_relative_to(path)


def _put(aside: Path, path: Path) -> None:
    if path.exists() and path.is_dir() != aside.is_dir():
        raise UserError(f"{path} is a {'folder' if path.is_dir() else 'file'}; remove it or choose another output")
    if path.is_dir():
        _put_folder(aside, path)
    else:
        os.replace(aside, path)


def _put_folder(aside: Path, path: Path) -> None:
    """A folder cannot be renamed over another: the old one steps aside, and goes when the new one is there."""
    old = aside.with_name(f".{path.name}.{_owner()}.old")
    _OPEN.add(old)
    try:
        os.replace(path, old)
        os.replace(aside, path)
    finally:
        _clear(old, path)
        _OPEN.discard(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def check_folder(path: Path) -> None:
    """That a folder is there or can be made; makes nothing.

    Raises:
        UserError: if it or what it would be made in is a file, or read-only.
    """
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    if not there.is_dir():
        raise UserError(f"cannot make the folder {path} ({there} is a file); choose another")
    if not os.access(there, os.W_OK):
        raise UserError(f"the folder {there} is read-only; choose another")


@contextlib.contextmanager
def folder_made(path: Path) -> Iterator[Path]:
    """As `make_folder`; folders that were made for it and hold nothing at the end are removed again.

    Raises:
        UserError: as `make_folder`.
    """
    missing = [place for place in (path, *path.parents) if not place.exists()]
    make_folder(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # until one that is not empty
            for place in missing:
                place.rmdir()


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, unless it is there; returns it.

    Raises:
        UserError: if it cannot be made, is a file, or is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path} ({error.strerror}); choose another") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"the folder {path} is read-only; choose another")
    return path


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    _hash_whole(path, digest)
    return digest.hexdigest()


# What a model folder's files are known by: weights by their formats; of the rest, all but texts for people.
_WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".npz", ".gguf", ".onnx", ".pkl", ".pickle",
)  # fmt: skip
_TEXTS_FOR_PEOPLE = (".md", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".pdf")


def hash_weights(folder: Path) -> str:
    """sha256 over all weight files of a model folder, in name order; above 2 GiB over samples of each.

    Raises:
        UserError: for a file that cannot be read.
    """
    files = [file for file in _model_files(folder) if file.suffix in _WEIGHT_SUFFIXES]
    digest = hashlib.sha256()
    with _readable(folder):
        sampled = sum(file.stat().st_size for file in files) > _WHOLE_HASH_BYTES
        for file in files:
            digest.update(str(file.relative_to(folder)).encode())
            if sampled:
                _hash_samples(file, digest)
            else:
                _hash_whole(file, digest)
    return ("sampled-sha256:" if sampled else "sha256:") + digest.hexdigest()


def hash_configuration(folder: Path) -> str:
    """sha256 over what decides a model's results beside its weights: settings, vocabularies, any other file.

    Texts for people (README.md, pictures), hidden files, and code that a folder brings, which nothing here runs, do
    not count.

    Raises:
        UserError: for a file that cannot be read.
    """
    digest = hashlib.sha256()
    with _readable(folder):
        for file in _model_files(folder):
            if file.suffix not in (*_WEIGHT_SUFFIXES, *_TEXTS_FOR_PEOPLE, ".py"):
                digest.update(f"{file.relative_to(folder).as_posix()} {hash_file(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _model_files(folder: Path) -> list[Path]:
    """All files but hidden ones, as git and the hub keep them."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or folder} ({error.strerror}); allow reading it, or download the model again"
        ) from error


def _hash_whole(file: Path, digest: "hashlib._Hash") -> None:
    with open(file, "rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)


def _hash_samples(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    digest.update(str(size).encode())
    with open(file, "rb") as stream:
        for part in range(9):
            stream.seek(part * max(0, size - 2**20) // 8)
            digest.update(stream.read(2**20))
