"""What a run needs before its first step: its models, ready to train, and its data."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..data.cache import LatentCache
from ..data.encoding import Encoder
from ..data.loader import BatchLoader
from ..models.semantic_encoder import SemanticEncoder
from ..pipelines.loading import load_pipeline
from ..pipelines.pipeline_sama import SamaPipeline
from ..pipelines.scope import add_to_scope
from ..system.errors import UserError
from .config import TrainConfig
from .contradictions import check_data
from .distillation import Teacher
from .mixture import batch_config, build_mixture, encoder_identity, tabulate_mixture, taught_by
from .parallel import Parallel, Trainable
from .preparation import check_semantic_width, load_semantic_encoder, prepare_transformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Models:
    """Of a run: the pipeline that is written in the end, what the optimizer sees of it, and what only encodes."""

    pipe: SamaPipeline
    model: Trainable
    encoder: Encoder
    teacher: Teacher | None = None


def load_models(config: TrainConfig, parallel: Parallel) -> Models:
    """Load, prepare, shard and place the models of a run.

    Args:
        config: with its precision decided.

    Raises:
        UserError: for a model that cannot be loaded or trained so.
    """
    # Of Wan's norms under autocast on a CPU: a matter of speed alone.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    torch.manual_seed(config.loop.seed)  # new parts of a model begin alike in every process
    with parallel.agreed():
        pipe, semantic_encoder = _load(config)
    model = Trainable(pipe.transformer, pipe.text_encoder if config.model.train_text_encoder else None)
    _choose_what_trains(model, pipe)
    if config.loop.gradient_checkpointing:
        pipe.transformer.enable_gradient_checkpointing()
    if config.loop.compile:
        for block in model.blocks:
            block.compile()
    assert config.loop.precision != "auto"
    if config.distillation is not None and config.model.lora is None and parallel.world_size > 1:
        raise UserError("a whole teacher beside its student is for one process; set model.lora, or start one process")
    parallel.shard(model, config.loop.precision)
    model.to(parallel.device)
    encoder = Encoder(
        pipe,
        semantic_encoder,
        num_anchors=config.objective.num_anchors,
        with_text=model.text_encoder is None,
        together=all(dataset.engine for dataset in config.data.datasets),
    )
    if config.data.cache is None:
        encoder.to(parallel.device, text=True)
    return Models(pipe=pipe, model=model, encoder=encoder, teacher=_teacher(config, pipe))


def _teacher(config: TrainConfig, pipe: SamaPipeline) -> Teacher | None:
    """With what it makes of the model that is exported: one that samples in few steps without guidance."""
    distillation = config.distillation
    if distillation is None:
        return None
    pipe.register_to_config(default_num_inference_steps=distillation.num_inference_steps, default_guidance_scale=1.0)
    shift, has_adapters = pipe.config.default_flow_shift, config.model.lora is not None
    return Teacher(pipe.transformer, distillation, shift, has_adapters=has_adapters)


def _load(config: TrainConfig) -> tuple[SamaPipeline, SemanticEncoder | None]:
    # On the CPU first: no device holds more than its part and one block.
    pipe = load_pipeline(config.model.init, device="cpu", dtype="float32")
    if pipe.text_encoder is None:
        raise UserError(f"{config.model.init} has no text encoder; use a folder that holds one")
    semantic_encoder = load_semantic_encoder(pipe, config.model, config.objective)
    if semantic_encoder is not None:
        check_semantic_width(pipe, semantic_encoder, config.model)
    prepare_transformer(pipe, config.model, config.objective, precision=config.loop.precision)
    if config.distillation is not None and config.model.lora is not None:
        for part in pipe.transformer.new_parts.values():  # the teacher's, too
            part.requires_grad_(False)
    pipe.register_to_config(trained_for=add_to_scope(pipe.config.trained_for, taught_by(config.data)))
    return pipe, semantic_encoder


def _choose_what_trains(model: Trainable, pipe: SamaPipeline) -> None:
    parts: list[nn.Module | None] = [pipe.vae, pipe.text_encoder]
    for part in parts:
        if part is not None:
            part.requires_grad_(part is model.text_encoder)
    model.train()


def build_loader(config: TrainConfig, parallel: Parallel, encoder: Encoder, out: Path) -> BatchLoader:
    """The run's batches, once its settings and its data are known to agree.

    Args:
        encoder: of batches that come more than once.
        out: folder of the run.

    Raises:
        UserError: for data that cannot be read or do not fit, in all processes.
    """
    data = config.data
    with parallel.agreed():
        parallel.check_batch_sizes(data.image_batch_size, data.video_batch_size)
        datasets = build_mixture(data, out)
    tables = tabulate_mixture(datasets, parallel)
    with parallel.agreed():
        for note in check_data(config, tables):
            logger.info("%s", note)
        loader = BatchLoader(
            datasets,
            batch_config(data, 2 * encoder.pipe.vae.config.scale_factor_spatial, config.loop.seed),
            rank=parallel.rank,
            world_size=parallel.world_size,
            num_workers=data.num_workers,
            prefetch_factor=data.prefetch_factor,
            cache=None if data.cache is None else LatentCache(Path(data.cache), encoder_identity(config)),
            encode=encoder.encode_batch if data.cache is None else None,
            tables=tables,
            pin_memory=parallel.device.type == "cuda",
        )
    parallel.same(str(loader.state_dict()["mixture"]), "the data and its settings")
    return loader
