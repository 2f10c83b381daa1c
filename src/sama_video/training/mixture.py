"""A run's datasets from its config."""

import json
from pathlib import Path

import torch

from ..data.cache import EncoderIdentity
from ..data.catalogue import read_dataset
from ..data.datasets import EngineDataset, ManifestDataset, TrainingDataset
from ..data.epoch import BatchConfig, DatasetTable, WeightedDataset, join_tables, tabulate
from ..data.file_info import FileInfo
from ..data.manifest import CAPTIONED, parse_column_map, read_manifest
from ..data.shards import TensorStore
from ..models.semantic_encoder import find_semantic_encoder
from ..pipelines.scope import NOTHING_YET, TrainedFor, add_to_scope
from ..pipelines.selection import find_model
from ..synth.engine import Engine
from ..synth.footage import find_footage
from ..system.errors import UserError
from ..system.files import written_aside
from ..system.precision import Precision, choose_precision
from .config import DataConfig, EngineConfig, TrainConfig
from .parallel import Parallel

_MEMORY = "facts"  # of `FileInfo`
_CACHE_PRECISION = "precision.json"


def build_engine(config: EngineConfig, split: str, cache: Path) -> Engine:
    """The engine with the user's footage, if there is any; decoded films go to `cache`."""
    footage = find_footage(config.images, config.videos, split, cache)
    return Engine(
        split=split,
        seed=config.seed,
        families=config.families,
        loose=config.loose,
        vocabulary=config.vocabulary,
        footage=footage,
    )


def build_dataset(data: DataConfig, number: int, out: Path, info: FileInfo) -> TrainingDataset:
    """Dataset `number` of a run. Raises UserError for a manifest or folder that cannot be used."""
    config = data.datasets[number]
    if config.engine is not None:
        return EngineDataset(
            build_engine(config.engine, "train", out / "films"),
            num_samples=config.engine.num_samples,
            shapes=config.engine.shapes,
            text_to_video=config.engine.text_to_video,
        )
    assert config.manifest is not None
    shares_columns = not config.columns and config.catalogue is None and data.columns
    option = "--set data.columns=" if shares_columns else f"--set data.datasets.{number}.columns="
    columns = parse_column_map(data.columns if shares_columns else config.columns, option)
    if config.catalogue is not None:
        rows = read_dataset(config.catalogue, config.manifest, column_map=columns, map_option=option)
    else:
        rows = read_manifest(config.manifest, column_map=columns, required=CAPTIONED, map_option=option)
    return ManifestDataset(rows, info)


def build_mixture(config: DataConfig, out: Path) -> list[WeightedDataset]:
    """What files hold is remembered beside a cache's entries, else beside the stages' folders, for all of them.

    Args:
        out: folder of the stage.
    """
    info = FileInfo((out.parent if config.cache is None else Path(config.cache)) / _MEMORY)
    return [
        WeightedDataset(name=dataset.name, dataset=build_dataset(config, number, out, info), weight=dataset.weight)
        for number, dataset in enumerate(config.datasets)
    ]


def taught_by(config: DataConfig) -> TrainedFor:
    """What the engines of a mixture teach; empty with a manifest, since nobody knows what that teaches.

    Captioned clips teach no edits.
    """
    engines = [dataset.engine for dataset in config.datasets]
    if None in engines:
        return {}
    scope: TrainedFor = NOTHING_YET
    for engine in engines:
        if engine is not None and not engine.text_to_video:
            taught = Engine(families=engine.families, vocabulary=engine.vocabulary).taught()
            scope = add_to_scope(scope, taught)
    return scope


def tabulate_mixture(datasets: list[WeightedDataset], parallel: Parallel) -> list[DatasetTable]:
    """What all samples are, found out by all processes together: each looks at its portion of the files.

    Raises:
        UserError: in all processes, for a file that cannot be read.
    """
    with parallel.agreed():
        portions = [tabulate(weighted, parallel.rank, parallel.world_size) for weighted in datasets]
    return [join_tables(of_all) for of_all in zip(*parallel.gather(portions), strict=True)]


def encoder_identity(config: TrainConfig) -> EncoderIdentity:
    """What the entries of a run's cache are known by.

    Raises:
        UserError: for a model without files here, or datasets that are not made of files.
    """
    if engines := [dataset.name for dataset in config.data.datasets if dataset.engine is not None]:
        raise UserError(
            f"a cache holds files, and {engines[0]} comes from the engine: write it with 'sama data synth', cache that "
            f"(--set data.datasets=FOLDER/manifest.csv), or unset data.cache"
        )
    folder = find_model(config.model.init).folder
    if folder is None:  # a hub id, whose files are not known
        raise UserError(
            f"a cache is keyed by the model's files: download {config.model.init} and set model.init to its folder"
        )
    semantic = config.model.semantic_encoder
    return EncoderIdentity.of_folders(
        folder,
        dtype=getattr(torch, cache_precision(config)),
        siglip=None if semantic is None else find_semantic_encoder(semantic),
        num_anchors=config.objective.num_anchors,
        semantic_grid=config.objective.semantic_grid,
    )


def cache_precision(config: TrainConfig) -> Precision:
    """Of the encoders that fill a run's cache. What "auto" became is noted in its folder: the entries are found by it,
    also on a machine that would choose otherwise.

    Raises:
        UserError: for a note that is damaged.
    """
    assert config.data.cache is not None
    if config.data.cache_dtype != "auto":
        return config.data.cache_dtype
    note = Path(config.data.cache) / _CACHE_PRECISION
    if not note.exists():
        return "float32"  # filled before there was a choice, or not at all
    try:
        found = json.loads(note.read_text())
    except ValueError:
        found = None
    if found not in ("float32", "bfloat16"):
        raise UserError(f'{note} is damaged; write "float32" or "bfloat16" into it, what the cache was filled with')
    return found


def settle_cache_precision(config: TrainConfig, device: str) -> None:
    """Before a cache is filled for the first time: decide "auto" for the device that fills it."""
    folder = Path(str(config.data.cache))
    if config.data.cache_dtype == "auto" and not (folder / _CACHE_PRECISION).exists() and not len(TensorStore(folder)):
        with written_aside(folder / _CACHE_PRECISION) as aside:
            aside.write_text(json.dumps(choose_precision(device)))


def batch_config(config: DataConfig, pixel_multiple: int, seed: int) -> BatchConfig:
    return BatchConfig(
        buckets=config.buckets(pixel_multiple),
        image_batch_size=config.image_batch_size,
        video_batch_size=config.video_batch_size,
        seed=seed,
        pretext_variants=config.num_variants,
        pretext=config.pretext,
        shuffle_keeps_last_frame=config.shuffle_keeps_last_frame,
        echo=config.echo,
    )
