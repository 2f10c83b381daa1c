"""Checkpoints: weights, average, optimizer and the place in the data, complete or not there at all.

Written by `torch.distributed.checkpoint`, so that a run goes on with another number of processes. A checkpoint is
written aside, flushed to the disk and renamed; what is being written when the process dies is never mistaken for one.
Randomness needs no state: every draw is derived from (seed, step, sample).
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..errors import UserError
from .ema import Ema
from .optimizer import Optimizer

OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


def checkpoint_folder(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step:07d}"


def checkpoints(out: Path) -> list[Path]:
    """Complete ones, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("step-*") if not path.suffix)


def save_checkpoint(
    out: Path, step: int, model: nn.Module, ema: Ema, optimizer: Optimizer, progress: dict[str, Any], keep: int
) -> Path:
    """Write the state after `step` optimizer steps; all processes call it. Returns its folder.

    Raises:
        UserError: for a full disk; the checkpoints before stay.
    """
    final = checkpoint_folder(out, step)
    aside = final.with_suffix(".part")
    if is_first():
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    wait_for_all()
    state = {"model": _model_state(model), "ema": ema.averages, "optimizer": _optimizer_state(model, optimizer)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # saving without a process group is what one process does
            dcp.save(state, checkpoint_id=aside)
        if is_first():
            (aside / "progress.json").write_text(json.dumps(progress))
            _flush(aside)
            if final.exists():
                shutil.rmtree(final)
            os.replace(aside, final)
            _flush_folder(final.parent)
            for old in checkpoints(out)[:-keep]:
                shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"cannot save {final} ({error.strerror or error}); earlier checkpoints are untouched"
        ) from error
    wait_for_all()
    return final


def load_checkpoint(folder: Path, model: nn.Module, ema: Ema, optimizer: Optimizer) -> dict[str, Any]:
    """Put the state of `folder` into the parts; returns its progress. All processes call it.

    Raises:
        UserError: for a checkpoint of another model.
    """
    state = {"model": _model_state(model), "ema": ema.averages, "optimizer": _optimizer_state(model, optimizer)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, checkpoint_id=folder)
    except (RuntimeError, ValueError, KeyError, dcp.api.CheckpointException) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{folder} does not fit this run's model ({first_line}); resume with its own config") from error
    set_model_state_dict(model, state["model"], options=OPTIONS)
    set_optimizer_state_dict(model, optimizer.parts, optim_state_dict=state["optimizer"], options=OPTIONS)
    return json.loads((folder / "progress.json").read_text())


def _model_state(model: nn.Module) -> dict[str, Any]:
    return dict(get_model_state_dict(model, options=OPTIONS))


def _optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    return dict(get_optimizer_state_dict(model, optimizer.parts, options=OPTIONS))


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
