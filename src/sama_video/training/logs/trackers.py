"""Where a run's curves and pictures are shown: TensorBoard, Weights & Biases, Trackio, through accelerate's trackers.

A run has one name for all of them, kept in `tracking.json` in its folder, so that a resumed run continues its curves.
One process of a run opens trackers; the others never do.
"""

import importlib
import json
import logging
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from ...system.errors import UserError
from ...system.files import written_aside
from ..config import LoggingConfig

logger = logging.getLogger(__name__)

_NOTE = "tracking.json"
_WITHOUT = "take it out of logging.trackers (--set)"


def check_trackers(config: LoggingConfig) -> None:
    """Raises UserError for a tracker that is not installed or not logged in; TensorBoard may be missing."""
    for name in config.trackers:
        if name != "tensorboard" and find_spec(name) is None:
            raise UserError(f"logging.trackers has {name}, which is not installed: pip install {name}, or {_WITHOUT}")
    if "wandb" in config.trackers:
        _check_login()


def _check_login() -> None:
    wandb = importlib.import_module("wandb")
    if wandb.setup().settings.mode not in ("online", "shared"):
        return  # WANDB_MODE or `wandb offline` say that nothing is sent
    try:
        logged_in = wandb.login()
    except wandb.Error as error:
        logged_in, reason = False, f" ({error})"
    else:
        reason = ""
    if not logged_in:
        raise UserError(
            f"Weights & Biases knows nobody here{reason}: run 'wandb login' or set WANDB_API_KEY; set "
            f"WANDB_MODE=offline to keep the run on this machine; or {_WITHOUT}"
        )


def open_trackers(
    config: LoggingConfig, out: Path, *, step: int = 0, settings: Mapping[str, Any] | None = None
) -> list[GeneralTracker]:
    """Those of the run in `out`, started.

    Args:
        step: steps that are done; TensorBoard forgets what it has of later ones, the others keep it.
        settings: of the run, to be shown with it.

    Raises:
        UserError: for one that cannot start.
    """
    PartialState()  # their log messages ask it which process this is
    trackers: list[GeneralTracker] = []
    for name in config.trackers:
        tracker = _tracker(name, config.project, out, step)
        if tracker is not None:
            try:
                tracker.start()
            except Exception as error:  # each library has its own
                raise UserError(f"{name} cannot start ({error}); put that right, or {_WITHOUT}") from error
            if name != "tensorboard" and settings:  # which takes no nested ones
                tracker.store_init_configuration(dict(settings))
            trackers.append(tracker)
    return trackers


def _tracker(name: str, project: str, out: Path, step: int) -> GeneralTracker | None:
    if name == "tensorboard":
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            logger.info("no TensorBoard curves: pip install 'sama-video[train]' brings them; metrics.jsonl has it all")
            return None
        return TensorBoardTracker(name, out, purge_step=step + 1)
    run, shown = _run_of(out), f"{out.parent.name}-{out.name}"
    if name == "wandb":
        return WandBTracker(project, id=run, name=shown, dir=str(out), resume="allow")
    return TrackioTracker(project, name=f"{shown}-{run}", resume="allow")


def _run_of(out: Path) -> str:
    """What a run is known by to its trackers, made when it first has one."""
    note = out / _NOTE
    if not note.exists():
        with written_aside(note) as aside:
            aside.write_text(json.dumps({"run": secrets.token_hex(4)}))
    try:
        return json.loads(note.read_text())["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{note} is damaged; remove it, and the trackers begin another run") from error


def show_files(tracker: GeneralTracker, name: str, folder: Path, step: int) -> None:
    """The sheet of a validation, and where a tracker plays clips these, too.

    Args:
        name: that the pictures are shown under.
        folder: with sheet.png and clips/.
    """
    sheet = folder / "sheet.png"
    if isinstance(tracker, TensorBoardTracker):
        pixels = np.asarray(PIL.Image.open(sheet).convert("RGB"))[None]
        tracker.log_images({f"{name}/sheet": pixels}, step=step, dataformats="NHWC")
        return
    library = importlib.import_module(tracker.name)
    shown = {f"{name}/sheet": library.Image(str(sheet))}
    for file in sorted((folder / "clips").iterdir()):
        shown[f"{name}/{file.stem}"] = (library.Image if file.suffix == ".png" else library.Video)(str(file))
    tracker.log(shown, step=step)
