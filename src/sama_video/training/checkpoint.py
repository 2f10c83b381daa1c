"""Checkpoints: weights, average, optimizer and the position in the data, complete or not there at all.

Written by `torch.distributed.checkpoint`, so that a run resumes with another number of processes. The state is copied,
then written aside in the background, flushed to the disk and renamed; what is being written when the process dies is
never mistaken for a checkpoint. Randomness needs no state: every draw is derived from (seed, step, sample).
"""

import json
import os
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch.distributed.checkpoint as dcp

from ..system.errors import UserError
from ..system.platforms import flush_folder
from .ema import Ema
from .optimizer import Optimizer
from .parallel import Parallel, is_first

_PROGRESS = "progress.json"


def checkpoints(out: Path) -> list[Path]:
    """Complete ones of the run in `out`, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("step-*") if not path.suffix)


def training_state(ema: Ema, optimizer: Optimizer) -> dict[str, Any]:
    """The trainable weights, their average and the optimizer's state: the very tensors, which loading fills.

    Frozen weights are not part of it; they come from where the run began.
    """
    weights = {name: weight.detach() for name, weight in ema.weights.items()}
    return {"model": weights, "ema": ema.averages, "optimizer": {"state": optimizer.state()}}


class Checkpoints:
    """Those of one run. All processes call every method together.

    Args:
        out: folder of the run.
        parallel: this process.
        keep: newest ones that stay, beside the best.
    """

    def __init__(self, out: Path, parallel: Parallel, keep: int):
        self.out, self.parallel, self.keep = out, parallel, keep
        # Saving without a process group is what one process does; torch's own threads cannot be quietened for a block.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        with parallel.agreed():
            if is_first():
                for left in (out / "checkpoints").glob("*.part"):
                    shutil.rmtree(left)

    def save(self, step: int, state: dict[str, Any], progress: dict[str, Any], score: float | None = None) -> None:
        """Copy the state after `step` steps and write it while training goes on; `finish` waits for it.

        Args:
            state: see `training_state`.
            progress: what else the run needs, as JSON values.
            score: of the newest validation, more is better; the checkpoint with the best one is kept.

        Raises:
            UserError: if the disk cannot take it, or could not take the one before; earlier checkpoints stay.
        """
        self.finish()
        final = self.out / "checkpoints" / f"step-{step:07d}"
        if self.parallel.gather(final.exists())[0]:
            return  # the same step has the same state
        aside = final.with_suffix(".part")
        with self.parallel.agreed():
            if is_first():
                _make_folder(aside)
        # A future, since copying is not put off itself.
        written = cast(Future, dcp.async_save(state, checkpoint_id=aside, process_group=self.parallel.saving))
        self._pending = self._writer.submit(self._complete, written, aside, progress | {"score": score})

    @property
    def has_failed(self) -> bool:
        """Whether this process knows that the checkpoint being written came to nothing."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is complete.

        Raises:
            UserError: if it could not be written; earlier ones stay.
        """
        pending, self._pending = self._pending, None
        with self.parallel.agreed():
            if pending is not None:
                pending.result()

    def load_newest(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """Fill the tensors of `state` from the newest complete checkpoint; returns its progress, None without one.

        Raises:
            UserError: for a checkpoint of another model, or a folder that not all processes see.
        """
        folder = self.parallel.gather(next(reversed(checkpoints(self.out)), None))[0]
        if folder is None:
            return None
        with self.parallel.agreed():
            if not folder.is_dir():
                raise UserError(f"{folder} is not visible here; put the run's folder on a disk that all nodes share")
            progress = json.loads((folder / _PROGRESS).read_text())
        try:
            dcp.load(state, checkpoint_id=folder)
        except dcp.api.CheckpointException as error:
            raise UserError(
                f"{folder} does not fit this run's model ({_reason(error)}); resume with its own config, or remove the "
                "folder to go on from the checkpoint before it"
            ) from error
        return progress

    def _complete(self, written: Future, aside: Path, progress: dict[str, Any]) -> None:
        """In the background: once all processes have written, the first one makes it count."""
        final = aside.with_suffix("")
        try:
            written.result()
            if is_first():
                _write_flushed(aside / _PROGRESS, json.dumps(progress))
                flush_folder(aside)
                os.replace(aside, final)
                flush_folder(final.parent)
                self._remove_old()
        except (OSError, dcp.api.CheckpointException) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise UserError(
                f"cannot save {final} ({_reason(error)}); earlier checkpoints are untouched: free some space and resume"
            ) from error

    def _remove_old(self) -> None:
        found = checkpoints(self.out)
        scores = {path: json.loads((path / _PROGRESS).read_text()).get("score") for path in found}
        scored = [path for path in found if scores[path] is not None]
        best = max(scored, key=lambda path: scores[path], default=None)
        for path in found[: -self.keep]:
            if path != best:
                # Half of a checkpoint must not look like one, also if the process dies right here.
                shutil.rmtree(path.rename(path.with_suffix(".part")))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make {folder} ({error.strerror}); free some space or choose another `out`") from error


def _reason(error: BaseException) -> str:
    """What the process that failed first said."""
    if isinstance(error, dcp.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0]


def _write_flushed(file: Path, text: str) -> None:
    with open(file, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
