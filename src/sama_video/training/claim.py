"""One folder, one run: who trains in it now, and what it holds."""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import filelock

from ..system.errors import UserError
from ..system.files import folder_made, written_aside
from .config import LoggingConfig, LoopConfig, OptimizerConfig, ParallelConfig, TrainConfig, ValidationConfig
from .overrides import read_config

CONFIG, LOCK, PROCESS = "config.json", ".run.lock", ".run.process"
# Settings of `data` that came later and whose default is not what runs did before; what they did is here. A run that
# began without one continues so, and its config.json stays without.
_BEFORE = {"shuffle_keeps_last_frame": False}


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A run's folder, made and locked; the lock of a dead process is free.

    A folder in which no run began is removed if it is empty, and those that were made for it.

    Raises:
        UserError: while another run trains there, or for a folder that cannot be made.
    """
    # The operating system drops the lock with the process that holds it, however it ends.
    lock = filelock.FileLock(folder / LOCK)
    with folder_made(folder):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise UserError(
                f"another run is training in {folder} ({_who(folder)}); wait until it ends, stop it, or choose another "
                "`out`"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise UserError(f"cannot lock {folder} ({error}); choose a folder on a disk that takes locks") from error
        try:
            with written_aside(folder / PROCESS) as aside:
                aside.write_text(f"{os.getpid()} on {platform.node()}")
            yield
        finally:
            (folder / PROCESS).unlink(missing_ok=True)
            lock.release()
            if not (folder / CONFIG).exists():
                (folder / LOCK).unlink(missing_ok=True)


def _who(folder: Path) -> str:
    try:
        return f"process {(folder / PROCESS).read_text()}"
    except OSError:
        return "it has just begun"


def check_config(config: TrainConfig, folder: Path, *, resume: bool) -> None:
    """Raises UserError for a folder that holds another run, or this one while `resume` is false."""
    note, found = folder / CONFIG, read_config_of(folder)
    if found is None:
        return
    if not resume:
        raise UserError(f"{folder} holds a run already; pass `resume` to continue it, or choose another `out`")
    earlier = settings_of_before(folder)
    if _fixed(found.changed(data=earlier)) != _fixed(config.changed(data=earlier)):
        raise UserError(
            f"{note} is of another config; resume with the same recipe and --set values (optimizer, loop, parallel, "
            "logging, data.validation, data.num_workers, data.prefetch_factor and model.preset may change)"
        )


def read_config_of(folder: Path) -> TrainConfig | None:
    """What the run in a folder was started with last; None where none began. Raises UserError for a damaged note."""
    note = folder / CONFIG
    if not note.exists():
        return None
    try:
        return read_config(json.loads(note.read_text()), str(note))  # what earlier versions lacked is the default
    except ValueError as error:
        raise UserError(f"{note} is damaged ({error}); restore it, or choose another `out`") from error


def settings_of_before(folder: Path) -> dict[str, Any]:
    """What a run that began in an earlier version did, of the settings of `data` that its sound config.json lacks."""
    note = folder / CONFIG
    known = json.loads(note.read_text())["data"] if note.exists() else _BEFORE
    return {name: value for name, value in _BEFORE.items() if name not in known}


def write_config(config: TrainConfig, folder: Path) -> None:
    """The config as it was when the run was started last."""
    values = asdict(config)
    for name in settings_of_before(folder):
        del values["data"][name]
    with written_aside(folder / CONFIG) as aside:
        aside.write_text(json.dumps(values, indent=1))


def write_stages(stages: Sequence[TrainConfig], out: Path) -> None:
    """The whole run's config beside its stages' folders, as `--config` takes it: each stage as it began, one after the
    other."""
    values = [asdict(stage.changed(data=settings_of_before(out / stage.name))) for stage in stages]
    with written_aside(out / CONFIG) as aside:
        aside.write_text(json.dumps(values, indent=1))


def _fixed(config: TrainConfig) -> TrainConfig:
    """The run with the same value in every config for what may change on the way."""
    data: dict[str, Any] = {"validation": ValidationConfig(), "num_workers": 0, "prefetch_factor": 1}
    if config.data.cache is None:
        data["cache_dtype"] = "auto"
    return replace(
        config.changed(model={"preset": None}, data=data),
        loop=LoopConfig(num_steps=1, seed=config.loop.seed),
        optimizer=OptimizerConfig(kind=config.optimizer.kind),
        parallel=ParallelConfig(),
        logging=LoggingConfig(),
    )
