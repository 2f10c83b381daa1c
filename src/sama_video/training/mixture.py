"""A run's datasets from its config."""

from pathlib import Path

import torch

from ..data.cache import EncoderIdentity, LatentCache
from ..data.caching import local_folder
from ..data.catalogue import read_dataset
from ..data.datasets import EngineDataset, ManifestDataset, TrainingDataset
from ..data.facts import FileFacts
from ..data.manifest import read_manifest
from ..data.plan import BatchConfig, WeightedDataset
from ..errors import UserError
from ..models.semantic_encoder import find_semantic_encoder
from ..synth.engine import Engine
from ..synth.footage import find_footage
from .config import DataConfig, DatasetConfig, EngineConfig, TrainConfig


def build_engine(config: EngineConfig, split: str, cache: Path) -> Engine:
    """The engine with the user's footage, if there is any; decoded films go to `cache`."""
    footage = find_footage(config.images, config.videos, split, cache)
    return Engine(split=split, seed=config.seed, families=config.families, loose=config.loose, footage=footage)


def build_dataset(config: DatasetConfig, out: Path) -> TrainingDataset:
    """Raises UserError for a manifest or folder that cannot be used."""
    if config.engine is not None:
        return EngineDataset(
            build_engine(config.engine, "train", out / "films"),
            num_samples=config.engine.num_samples,
            shapes=config.engine.shapes,
            text_to_video=config.engine.text_to_video,
        )
    assert config.manifest is not None
    facts = FileFacts(out / "facts.jsonl")
    if config.catalogue is not None:
        return ManifestDataset(read_dataset(config.catalogue, config.manifest), facts)
    return ManifestDataset(read_manifest(config.manifest, required=("tgt_video", "prompt")), facts)


def build_mixture(config: DataConfig, out: Path) -> list[WeightedDataset]:
    return [
        WeightedDataset(name=dataset.name, dataset=build_dataset(dataset, out), weight=dataset.weight)
        for dataset in config.datasets
    ]


def open_cache(config: TrainConfig) -> LatentCache | None:
    """What `sama data cache` encoded with this run's encoders; None if the config names no cache.

    Raises:
        UserError: for a model without files here, or datasets that are not made of files.
    """
    if config.data.cache is None:
        return None
    if engines := [dataset.name for dataset in config.data.datasets if dataset.engine is not None]:
        raise UserError(
            f"a cache holds files, and {engines[0]} comes from the engine: write it with 'sama data synth' and cache "
            f"that, or unset data.cache"
        )
    semantic = config.model.semantic_encoder
    identity = EncoderIdentity.of_folders(
        local_folder(config.model.init),
        dtype=getattr(torch, config.data.cache_dtype),
        siglip=None if semantic is None else find_semantic_encoder(semantic),
        num_anchors=config.objective.num_anchors,
    )
    return LatentCache(Path(config.data.cache), identity)


def batch_config(config: DataConfig, pixel_multiple: int, seed: int) -> BatchConfig:
    return BatchConfig(
        buckets=config.buckets(pixel_multiple),
        image_batch_size=config.image_batch_size,
        video_batch_size=config.video_batch_size,
        seed=seed,
        pretext_variants=config.pretext_variants,
        pretext=config.pretext,
    )
