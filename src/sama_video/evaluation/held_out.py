"""Edits of the synthetic engine that a training never saw, made and scored in memory: what was taught (things,
families, sizes), in scenes, textures and words of the test split.

Scores are those of `sama eval exact`; sampling is the model's own; noise depends on the item alone.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..synth.engine import VERSION, Engine, EnginePair
from ..system.errors import UserError
from ..system.files import hash_weights
from ..system.journal import Journal
from ..system.workers import Progress
from ..training.claim import read_config_of
from ..training.config import TrainConfig
from .aggregate import TaskScores, aggregate_exact
from .benchmark import Item
from .exact import SCORES_VERSION, Clips, score_clips
from .records import EXACT, ExactScores, read_records
from .report import exact_tables
from .tables import Table

if TYPE_CHECKING:
    from ..pipelines.pipeline_sama import SamaPipeline

_METRICS = ("success", "psnr_inside", "psnr_outside", "flicker", "motion_error")


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A fixed set of edits.

    Args:
        shape: frames, height and width of its clips.
        per_family: items of each family of the engine's.
    """

    engine: Engine
    shape: tuple[int, int, int]
    per_family: int

    def __post_init__(self) -> None:
        if self.per_family < 1:
            raise UserError(f"`items` must be at least 1, got {self.per_family}")

    @cached_property
    def pairs(self) -> list[EnginePair]:
        count = self.per_family * len(self.engine.families)
        return [self.engine.pair(index, *self.shape) for index in range(count)]

    @cached_property
    def items(self) -> list[Item]:
        """What tables know of the pairs; each is a source of its own."""
        return [
            Item(
                id=pair.draft.id,
                task=pair.family,
                instruction=pair.instruction,
                source=Path(pair.draft.id),
                file_name=f"{pair.draft.id}.mp4",
            )
            for pair in self.pairs
        ]


def held_out_of(config: TrainConfig, per_family: int) -> HeldOut | None:
    """For a stage that is trained on the engine's edits, at the size of its first clips; None for one that is not."""
    engines = [one.engine for one in config.data.datasets if one.engine is not None and not one.engine.text_to_video]
    if not engines:
        return None
    taught = Engine(split="known", families=engines[0].families, vocabulary=engines[0].vocabulary)
    shape = next((shape for engine in engines for shape in engine.shapes if shape[0] > 1), engines[0].shapes[0])
    return HeldOut(engine=taught, shape=shape, per_family=per_family)


def stage_scores(
    stage: TrainConfig, folder: Path, held_out: HeldOut, progress: Progress = lambda *_: None
) -> list[TaskScores]:
    """Scores of a stage's export by family, and last of all edits. Records are kept in the stage's folder: what was
    scored and has not changed is not made again.

    Args:
        stage: with `model.init` as it was.
        folder: of the stage.

    Raises:
        UserError: for an export that cannot be loaded; without OpenCV.
    """
    weights = hash_weights(folder / "export")
    keys = {item.id: _key(item, held_out, weights) for item in held_out.items}
    records = (replace(one, scores=_in_order(one.scores)) for one in read_records(folder / EXACT, ExactScores))
    known = {one.item: one for one in records if one.key == keys.get(one.item)}
    editor = cache(lambda: _editor_of(stage, folder / "export"))  # loaded at the first edit, if there is one
    with Journal(folder / EXACT) as journal:
        for number, (item, pair) in enumerate(zip(held_out.items, held_out.pairs, strict=True)):
            if item.id not in known:
                known[item.id] = _scored(item, pair, keys[item.id], lambda pair, seed=number: editor()(pair, seed))
                journal.append(asdict(known[item.id]))
            progress("scoring", number + 1, len(held_out.items))
    return aggregate_exact(held_out.items, list(known.values()))


@cache
def unedited_scores(held_out: HeldOut) -> list[TaskScores]:
    """Of the sources as they are: what every score begins at. Raises UserError without OpenCV."""
    pairs = zip(held_out.items, held_out.pairs, strict=True)
    return aggregate_exact(held_out.items, [_scored(item, pair, "", lambda pair: pair.source) for item, pair in pairs])


def trained_stages(run: Path) -> list[tuple[TrainConfig, Path]]:
    """The finished stages in a run's folder, each after the one that it began with.

    Raises:
        UserError: for a folder without one, or a config that is damaged.
    """
    found = {folder.parent: read_config_of(folder.parent) for folder in run.glob("*/export")}
    stages = {folder.name: (config, folder) for folder, config in found.items() if config is not None}
    # By the folders' names: a run may have been moved, or named by another path.
    order = TopologicalSorter({name: {Path(config.model.init).parent.name} for name, (config, _) in stages.items()})
    chain = [stages[name] for name in order.static_order() if name in stages]
    if not chain:
        raise UserError(f"{run} holds no finished stage of 'sama train'; give its --out")
    return chain


def tables_of_stages(run: Path, per_family: int, progress: Progress = lambda *_: None) -> list[Table]:
    """Every stage of a run on the same edits that none of them saw: what stage 0 does before it sees any video edit
    (the paper's section 4.3), and what the stages after it add.

    Raises:
        UserError: for a folder without a finished stage, or a run that was not trained on the engine.
    """
    chain = trained_stages(run)
    held_out = held_out_of(chain[-1][0], per_family)
    if held_out is None:
        raise UserError(
            f"{run} was not trained on the engine: score each export with 'sama eval predict', 'exact' and 'report'"
        )
    scored = {stage.name: stage_scores(stage, folder, held_out, progress) for stage, folder in chain}
    return [*exact_tables(scored), unedited_table(held_out)]


def unedited_table(held_out: HeldOut) -> Table:
    """The line that an editor has to leave behind inside, and to stay near outside."""
    everything, *_ = exact_tables({"the source, unedited": unedited_scores(held_out)})
    return replace(everything, title="What scores begin at")


def _key(item: Item, held_out: HeldOut, weights: str) -> str:
    parts = [SCORES_VERSION, VERSION, item.id, item.instruction, held_out.shape, weights]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _scored(item: Item, pair: EnginePair, key: str, edit: Callable[[EnginePair], np.ndarray]) -> ExactScores:
    try:
        edited = edit(pair)
    except UserError as error:  # values that are not finite
        return ExactScores(item=item.id, status="failed", key=key, scores=_in_order({}), reason=str(error))
    clips = Clips(
        source=pair.source, prediction=edited, target=pair.target, mask=pair.mask, resized=False, length_difference=0
    )
    return ExactScores(item=item.id, status="ok", key=key, scores=_in_order(score_clips(clips)))


def _in_order(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """The scores that are kept, always in one order: tables of several models join them by it."""
    return {name: scores.get(name) for name in _METRICS}


def _editor_of(stage: TrainConfig, export: Path) -> Callable[[EnginePair, int], np.ndarray]:
    """The averaged weights that a stage exported, as a function of a pair and a seed: uint8 `[F, H, W, 3]`."""
    from ..pipelines.loading import load_pipeline

    adapters = stage.model.lora is not None
    pipe = load_pipeline(stage.model.init, lora=[str(export)]) if adapters else load_pipeline(str(export))
    return lambda pair, seed: _edited(pipe, pair, seed)


def _edited(pipe: "SamaPipeline", pair: EnginePair, seed: int) -> np.ndarray:
    import torch

    generator = torch.Generator().manual_seed(seed)
    frames = pipe(video=pair.source, prompt=pair.instruction, generator=generator).frames[0]
    return (np.asarray(frames) * 255).round().astype(np.uint8)
