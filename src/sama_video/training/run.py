"""A run from its config: one stage after the other, each in a folder of its own."""

import json
from pathlib import Path

from ..errors import UserError
from ..files import written_aside
from .checkpoint import is_first, wait_for_all
from .config import TrainConfig, as_json
from .parallel import Parallel
from .trainer import Trainer


def run_stages(stages: list[TrainConfig], out: Path, *, resume: bool) -> Path:
    """Train every stage that has no export yet, a later one from the one before. Returns the last export.

    Args:
        stages: configs; the folder of each is `out` / its name.

    Raises:
        UserError: for a folder that holds another run, or one that holds this run already and `resume` is false.
        TrainingStoppedError: if a stage cannot go on.
    """
    exported = None
    for stage in stages:
        folder = out / stage.name
        if exported is not None and stage.model.init == "previous":
            stage = stage.started_from(str(exported))
        exported = folder / "export"
        if exported.exists() and resume:
            continue
        parallel = Parallel.start(stage.parallel)
        if is_first():
            _claim(stage, folder, resume)
        wait_for_all()
        trainer = Trainer(stage, folder, parallel)
        if resume:
            trainer.resume()
        trainer.train()
        trainer.export(exported)
    assert exported is not None
    return exported


def _claim(config: TrainConfig, folder: Path, resume: bool) -> None:
    """A folder holds one run: its config is written once."""
    note = folder / "config.json"
    if note.exists() and not resume:
        raise UserError(f"{folder} holds a run already; pass --resume to go on or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(as_json(config), indent=1)
    if note.exists() and note.read_text() != settings:
        raise UserError(f"{note} is of another config; resume with the same recipe and --set values")
    if not note.exists():
        with written_aside(note) as aside:
            aside.write_text(settings)
