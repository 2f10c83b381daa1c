"""A run from its config: one stage after the other, each in a folder of its own."""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from ..system.precision import Precision, relative_seconds
from .checkpoint import checkpoints
from .claim import check_config, claimed, settings_of_before, write_config, write_stages
from .config import TrainConfig
from .interrupts import EXIT_CODES, InterruptedRunError, interrupts_at_once
from .logs.provenance import note_environment, recorded_precision, write_provenance
from .logs.trackers import check_trackers
from .optimizer import check_optimizer
from .parallel import Parallel, is_first, leave, settle_precision
from .trainer import Trainer, TrainingStoppedError
from .validation import clip_cases

logger = logging.getLogger(__name__)


def run_stages(stages: list[TrainConfig], out: Path, *, resume: bool) -> Path | None:
    """Train every stage that has no export yet, a later one from the one before.

    Returns the last export in the first process, None in the others.

    Args:
        stages: configs; the folder of each is `out` / its name.

    Raises:
        UserError: for a folder that holds another run, one that holds this run already and `resume` is false, or one
            that another process trains in.
        TrainingStoppedError: if a stage cannot continue, or was asked to stop.
    """
    try:
        with interrupts_at_once():
            return _run_stages(stages, out, resume)
    except InterruptedRunError as stop:
        again = " a second time, before the step under way could be saved" if stop.again else ""
        raise TrainingStoppedError(
            f"stopped by {stop}{again}; {_what_is_there(stages, out)}",
            exit_code=EXIT_CODES[stop.number],
        ) from None


def linked(stages: list[TrainConfig], out: Path) -> list[tuple[TrainConfig, Path]]:
    """Each stage with its folder below `out`; one that begins with the "previous" model begins with that one's."""
    chain: list[tuple[TrainConfig, Path]] = []
    for stage in stages:
        if chain and stage.model.init == "previous":
            stage = stage.started_from(str(chain[-1][1] / "export"))
        chain.append((stage, out / stage.name))
    return chain


def _run_stages(stages: list[TrainConfig], out: Path, resume: bool) -> Path | None:
    exported = None
    for number, (stage, folder) in enumerate(linked(stages, out)):
        exported = folder / "export"
        parallel = Parallel.start(stage.parallel)
        if number == 0:
            with parallel.agreed():
                if is_first():
                    _check_beforehand([one for one in stages if not (resume and _is_finished(one, out))], parallel)
        if not parallel.gather(resume and _is_finished(stage, out))[0]:
            _run_stage(stage, folder, parallel, resume, stages)
    result = exported if is_first() else None
    leave()
    return result


def _is_finished(stage: TrainConfig, out: Path) -> bool:
    return (out / stage.name / "export").exists()


def _check_beforehand(stages: list[TrainConfig], parallel: Parallel) -> None:
    """Raises UserError for what would stop a later stage, or this one once its models are loaded."""
    for stage in stages:
        check_trackers(stage.logging)
        check_optimizer(stage.optimizer, parallel.device, parallel.world_size)
        if stage.loop.validate_every and stage.data.validation.clips is not None:
            clip_cases(stage.data.validation)


def _what_is_there(stages: list[TrainConfig], out: Path) -> str:
    """For who stopped a run between its steps."""
    for stage in reversed(stages):
        if _is_finished(stage, out):
            return f"{stage.name} is complete, `resume` continues after it"
        if saved := checkpoints(out / stage.name):
            return (
                f"step {int(saved[-1].name.removeprefix('step-'))} of {stage.name} is saved, `resume` continues there"
            )
    return "no step had been made yet, so there is nothing to save"


def _run_stage(stage: TrainConfig, folder: Path, parallel: Parallel, resume: bool, stages: list[TrainConfig]) -> None:
    with ExitStack() as claim:
        with parallel.agreed():
            if is_first():
                check_config(stage, folder, resume=resume)
                claim.enter_context(claimed(folder))
        _train_stage(stage, folder, parallel, resume, stages)


def _train_stage(stage: TrainConfig, folder: Path, parallel: Parallel, resume: bool, stages: list[TrainConfig]) -> None:
    # 1. What the run began with where there was no setting yet; "auto" is what it began with, else what is fast here
    earlier = parallel.gather(settings_of_before(folder))[0]
    stage = stage.changed(data=earlier)
    if is_first() and stage.data.pretext:
        for name, value in earlier.items():
            logger.info("data.%s=%s, as the run began; a cache is filled with it, too", name, str(value).lower())
    began = None
    if stage.loop.precision == "auto":
        began = cast(Precision | None, parallel.gather(recorded_precision(folder))[0])
    settled = stage.with_precision(began) if began else settle_precision(stage, parallel)

    # 2. Models and data; a folder is no run's while its settings do not even load
    trainer = Trainer(settled, folder, parallel)
    with parallel.agreed():
        if is_first():
            write_config(stage, folder)
            write_stages(stages, folder.parent)
            write_provenance(settled, folder)
    if resume:
        trainer.resume()
    with parallel.agreed():
        if is_first():
            logger.info("%s", _told(stage, settled, parallel, began=began is not None))
            note_environment(parallel, folder, trainer.step, trainer.precision)

    # 3. All steps, and the result
    trainer.train()
    trainer.export(folder / "export")


def _told(stage: TrainConfig, settled: TrainConfig, parallel: Parallel, *, began: bool) -> str:
    """Which precision, and why."""
    if stage.loop.precision != "auto":
        reason = "as loop.precision says"
    elif began:
        reason = "as the run began"
    elif parallel.device.type == "cpu":
        reason = f"bfloat16 takes {relative_seconds():.2g} times as long as float32 on this processor"
    else:
        reason = "what this device is fast in"
    return f"computing in {settled.loop.precision}: {reason}"
