"""A run from its config: one stage after the other, each in a folder of its own."""

import json
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import make_folder, written_aside
from .config import TrainConfig, as_json
from .parallel import Parallel, is_first, leave
from .provenance import note_environment, write_provenance
from .trainer import Trainer


def run_stages(stages: list[TrainConfig], out: Path, *, resume: bool) -> Path | None:
    """Train every stage that has no export yet, a later one from the one before.

    Returns the last export in the first process, None in the others.

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
        parallel = Parallel.start(stage.parallel)
        if not parallel.gather(exported.exists() and resume)[0]:
            _run_stage(stage, folder, parallel, resume)
    result = exported if is_first() else None
    leave()
    return result


def _run_stage(stage: TrainConfig, folder: Path, parallel: Parallel, resume: bool) -> None:
    with parallel.agreed():
        if is_first():
            _check_claim(stage, folder, resume)
            make_folder(folder)
    trainer = Trainer(stage, folder, parallel)
    # Not before: a folder is no run's while its settings do not even load.
    with parallel.agreed():
        if is_first():
            _claim(stage, folder)
            write_provenance(stage, folder)
    if resume:
        trainer.resume()
    with parallel.agreed():
        if is_first():
            note_environment(parallel, folder, trainer.step)
    trainer.train()
    trainer.export(folder / "export")


def _check_claim(config: TrainConfig, folder: Path, resume: bool) -> None:
    """A folder holds one run."""
    note = folder / "config.json"
    if not note.exists():
        return
    if not resume:
        raise UserError(f"{folder} holds a run already; pass --resume to go on or choose another --out")
    if _fixed(json.loads(note.read_text())) != _fixed(json.loads(json.dumps(as_json(config)))):
        raise UserError(
            f"{note} is of another config; resume with the same recipe and --set values (optimizer, loop, parallel, "
            "data.validation, data.num_workers, data.prefetch_factor and model.preset may change)"
        )


def _claim(config: TrainConfig, folder: Path) -> None:
    """The config lies in the folder as it was when the run went on last."""
    with written_aside(folder / "config.json") as aside:
        aside.write_text(json.dumps(as_json(config), indent=1))


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run cannot change on the way without being another one."""
    free = ("validation", "num_workers", "prefetch_factor")
    data = {name: value for name, value in settings["data"].items() if name not in free}
    model = {name: value for name, value in settings["model"].items() if name != "preset"}
    return {
        "name": settings["name"],
        "model": model,
        "objective": settings["objective"],
        "data": data,
        "seed": settings["loop"]["seed"],
        "optimizer": settings["optimizer"]["kind"],
    }
