"""Filling a cache: every sample of a manifest in all its variants through the frozen encoders, in several processes."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..models.semantic_encoder import SemanticEncoder
from ..pipelines.loading import load_pipeline, resolve_model
from ..pipelines.pipeline_sama import SamaPipeline
from .buckets import Buckets, usual_frame_counts
from .cache import EncoderIdentity, add_sample
from .datasets import ManifestDataset
from .encoding import Encoder
from .facts import FileFacts
from .manifest import read_manifest
from .plan import BatchConfig, PlannedSample, WeightedDataset, assign, tabulate
from .samples import load_sample, sample_recipe
from .store import SHARD_BYTES, StoreWriter, TensorStore

FACTS = "files.jsonl"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class CacheJob:
    """What to encode with what.

    Args:
        manifest: pairs, or captioned clips for the pretext tasks.
        out: folder of the cache.
        model: preset or folder whose encoders to use.
        siglip: folder of a SigLIP model, None without the semantic stream.
        num_anchors: anchor frames of a video.
        name: of the dataset in the training's mixture, part of its random draws; the manifest's stem if None.
        max_pixels: area of the buckets; the model's native one if None.
        frame_counts: lengths of the buckets; the usual ones up to the model's native length if None.
        variants: `BatchConfig.pretext_variants` of the training.
        seed: of the training.
        column_map, root: of `read_manifest`.
        device, dtype: of `load_pipeline`.
        shard_bytes: size of a shard.
    """

    manifest: str
    out: Path
    model: str = "nano"
    siglip: Path | None = None
    num_anchors: int = 1
    name: str | None = None
    max_pixels: int | None = None
    frame_counts: tuple[int, ...] | None = None
    variants: int = 1
    seed: int = 0
    column_map: dict[str, str] = field(default_factory=dict)
    root: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What `fill_cache` did: samples gone through, entries that are there now, and how many of them are new."""

    num_samples: int
    num_entries: int
    num_new: int


def fill_cache(job: CacheJob, *, workers: int = 1, progress: Progress = lambda *_: None) -> CacheReport:
    """Encode all samples of a manifest in all their variants. What is there already is kept: a stopped run goes on.

    Args:
        workers: processes, this one among them; each holds the encoders.
        progress: called as (phase, done, of) for this process's share.

    Raises:
        UserError: for files that cannot be read, or a model that cannot be loaded.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    before = len(TensorStore(job.out))
    with _helpers(job, workers):
        num_samples = _encode_share(job, 0, workers, progress)
    store = TensorStore(job.out)
    store.write_index()
    return CacheReport(num_samples=num_samples, num_entries=len(store), num_new=len(store) - before)


def _encode_share(job: CacheJob, share: int, workers: int, progress: Progress) -> int:
    """Each `workers`-th sample from `share` on. Returns the number of all samples."""
    # 1. The encoders, and what distinguishes them
    if workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    folder = local_folder(job.model)
    pipe = load_pipeline(job.model, device=job.device, dtype=job.dtype)
    encoder = Encoder(pipe, _load_semantic_encoder(job, pipe), num_anchors=job.num_anchors)
    identity = EncoderIdentity.of_folders(folder, dtype=pipe.vae.dtype, siglip=job.siglip, num_anchors=job.num_anchors)

    # 2. What to encode
    config = _config_of(job, pipe)
    rows = read_manifest(job.manifest, column_map=job.column_map, root=job.root, required=("tgt_video", "prompt"))
    dataset = ManifestDataset(rows, FileFacts(job.out / FACTS))
    weighted = WeightedDataset(name=job.name or dataset_name(job.manifest), dataset=dataset)
    planned = planned_variants(weighted, config, job.variants)

    # 3. Encode what is missing
    own = planned[share::workers]
    with StoreWriter(job.out, shard_bytes=job.shard_bytes) as writer:
        for number, one in enumerate(own):
            recipe = sample_recipe(weighted, one, config)
            add_sample(writer, encoder, identity, recipe, lambda one=one: load_sample(weighted, one, config))
            progress("encoding", number + 1, len(own))
    return len(planned)


def dataset_name(manifest: str) -> str:
    """The stem: what a dataset is called in a mixture unless something else is said."""
    return Path(manifest).stem


def planned_variants(weighted: WeightedDataset, config: BatchConfig, variants: int) -> Sequence[PlannedSample]:
    """Every sample of a dataset in its first `variants` draws."""
    table = tabulate(weighted)
    indices = np.arange(len(table.num_frames))
    assignments = [assign(table, config, 0, indices, draw) for draw in range(variants)]
    return [assignment.sample(row) for assignment in assignments for row in range(len(assignment))]


def _config_of(job: CacheJob, pipe: SamaPipeline) -> BatchConfig:
    try:
        buckets = Buckets(
            area=job.max_pixels or pipe.config.native_area,
            pixel_multiple=pipe.pixel_multiple,
            frame_counts=job.frame_counts or usual_frame_counts(pipe.config.native_num_frames),
        )
        return BatchConfig(buckets=buckets, seed=job.seed, pretext_variants=job.variants)
    except ValueError as error:
        raise UserError(str(error)) from error


def _load_semantic_encoder(job: CacheJob, pipe: SamaPipeline) -> SemanticEncoder | None:
    if job.siglip is None:
        return None
    return SemanticEncoder.from_pretrained(job.siglip, dtype=pipe.vae.dtype).to(pipe.vae.device)


def local_folder(model: str) -> Path:
    """Of a preset or folder. Raises UserError for a hub id, whose files are not known."""
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        raise UserError(f"a cache is keyed by the model's files: download {model} and give its folder as --model")
    return folder


@contextlib.contextmanager
def _helpers(job: CacheJob, workers: int) -> Iterator[None]:
    """The other processes. They end with their share, also if this process is killed.

    Raises:
        UserError: what one of them met.
    """
    spawn = multiprocessing.get_context("spawn")
    errors = spawn.SimpleQueue()
    processes = [
        spawn.Process(target=_help, args=(job, share, workers, errors), daemon=True) for share in range(1, workers)
    ]
    for process in processes:
        process.start()
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    for process in processes:
        process.join()
    if not errors.empty():
        raise UserError(errors.get())
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise UserError(f"a worker ended with exit code {failed[0]}; run again with fewer --workers: it goes on")


def _help(job: CacheJob, share: int, workers: int, errors: "SimpleQueue[Any]") -> None:
    try:
        _encode_share(job, share, workers, lambda *_: None)
    except UserError as error:
        errors.put(str(error))
