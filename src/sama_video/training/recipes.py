"""Runs by name: functions that return a full config. `sama train RECIPE` takes one; `--set` changes single values.

Values of the large models are the paper's (section 4.1, Table 1). Its datasets are named here; their manifests are
where the user put them, `data.datasets.N.manifest`. A recipe without a size is for Wan2.1 14B, the paper's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..data.buckets import ASPECT_RATIOS
from ..data.catalogue import CATALOGUE
from ..synth.sprites import NANO_VOCABULARY, SHAPES
from ..system.errors import UserError
from .config import (
    DataConfig,
    DatasetConfig,
    DistillationConfig,
    EngineConfig,
    LoopConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)

_SIGLIP = "google/siglip-so400m-patch14-384"
_SIZES = {"": "wan2.1-14b", "_5b": "wan2.2-5b", "_1.3b": "wan2.1-1.3b"}  # by the ending of a recipe's name


def _table_1(stage: int) -> tuple[DatasetConfig, ...]:
    """The paper's datasets of a stage, each expected as datasets/NAME.parquet."""
    return tuple(
        DatasetConfig(name=card.name, manifest=f"datasets/{card.name}.parquet", catalogue=card.name)
        for card in CATALOGUE
        if stage in card.stages
    )


def factorized_pretraining(size: str = "") -> TrainConfig:
    """Stage 0: image edits and captioned videos with pretext tasks, from a text-to-video model (section 3.4)."""
    init = f"sama-{size.removeprefix('_') or '14b'}-init"
    return TrainConfig(
        name=f"factorized_pretraining{size}",
        model=ModelConfig(init=init, preset=_SIZES[size], semantic_encoder=_SIGLIP),
        data=DataConfig(datasets=_table_1(0)),
        loop=LoopConfig(num_steps=20_000),
    )


def supervised_finetuning(size: str = "") -> TrainConfig:
    """Stage 1: image and video edits, from stage 0's result (section 3.4)."""
    stage_0 = factorized_pretraining(size)
    stage_1 = stage_0.started_from(f"runs/{stage_0.name}/export")
    stage_1 = stage_1.changed(data={"datasets": _table_1(1), "pretext": False})
    return replace(stage_1, name=f"supervised_finetuning{size}")


def lora_pretraining(size: str = "") -> TrainConfig:
    """Stage 0 on one GPU: low-rank adapters, small batches."""
    return _with_adapters(factorized_pretraining(size), f"lora_pretraining{size}")


def lora_finetuning(size: str = "") -> TrainConfig:
    """Stage 1 on one GPU: low-rank adapters, small batches; of the released model where there is one."""
    stage_1, stage_0 = supervised_finetuning(size), factorized_pretraining(size)
    init = stage_0.model.init if size else "sama-14b"
    return _with_adapters(stage_1.started_from(init), f"lora_finetuning{size}")


def _with_adapters(full: TrainConfig, name: str) -> TrainConfig:
    # Users' clips are mostly 16:9, which the paper's ratios cut to 2:1 or 3:2.
    return replace(full, name=name).changed(
        model={"lora": LoraConfig()},
        data={"image_batch_size": 16, "video_batch_size": 4, "aspect_ratios": (*ASPECT_RATIOS, 9 / 16, 16 / 9)},
        optimizer={"learning_rate": 1e-4, "final_learning_rate": 1e-5},
        loop={"num_steps": 2_000, "ema_warmup": True},
    )


def distillation(size: str = "") -> TrainConfig:
    """Four steps without guidance, as a LoRA file, learned from what the model does in sixteen with it."""
    fine_tuned = lora_finetuning(size)
    init = f"runs/supervised_finetuning{size}/export" if size else fine_tuned.model.init
    # Its sampler's own sigmas, all alike.
    student = replace(fine_tuned.started_from(init), name=f"distillation{size}", distillation=DistillationConfig())
    return student.changed(
        data={"validation": ValidationConfig(num_inference_steps=4)},
        objective={"sigma_sampling": "uniform", "text_dropout": 0.0},
        loop={"validate_every": 250},
    )


_SMOKE_FAMILIES = ("global_style", "local_add", "subtitle_edit")  # a look, a thing, a text
UNTRAINED = "untrained"  # as `model.init`: a nano that has learned nothing yet, made when the run begins
# The nano's broad latents are far stronger than noise: below sigma 0.95 a target shows through, and neither text nor
# source has to be understood; and its few steps of sampling lie near 1 (docs/decisions/small-models.md).
_NANO_SHIFT = 60.0
_NANO_IMAGES = ((1, 128, 128), (1, 112, 144), (1, 144, 112))
_THINGS = ("local_add", "replace", "local_change")  # of all families these take longest
_NANO_LONG_CLIPS = ((17, 128, 128), (17, 128, 128), (17, 112, 144), (17, 96, 176))
_NANO_CLIPS = (*((frames, 128, 128) for frames in (5, 9, 17)), (9, 112, 144), (9, 144, 112), (9, 96, 176), (9, 176, 96))


def _engine(num_samples: int, shapes: tuple[tuple[int, int, int], ...], **values: Any) -> EngineConfig:
    """The engine with the things that a nano is taught, all edits said exactly."""
    values = {"vocabulary": NANO_VOCABULARY, **values}
    return EngineConfig(num_samples=num_samples, shapes=shapes, loose=0.0, **values)


def nano_pictures() -> TrainConfig:
    """What SAMA-Nano learns first, on small pictures: words, places, things and looks."""
    every = _engine(48_000, ((1, 96, 96),))
    things = _engine(24_000, ((1, 96, 96),), seed=1, families=_THINGS)
    return TrainConfig(
        name="nano_pictures",
        model=ModelConfig(init=UNTRAINED, preset="nano-narrow", semantic_encoder="nano", train_text_encoder=True),
        data=DataConfig(
            datasets=(DatasetConfig(name="every family", engine=every), DatasetConfig(name="things", engine=things)),
            area=96 * 96,
            frame_counts=(1,),
            image_batch_size=32,
            video_batch_size=8,
            pretext=False,
            echo=4,
            num_workers=1,
            validation=ValidationConfig(size=(96, 96), num_frames=1, num_inference_steps=4, num_samples=16),
        ),
        objective=ObjectiveConfig(sigma_shift=_NANO_SHIFT, text_dropout=0.0, semantic_grid=4),
        optimizer=OptimizerConfig(
            kind="muon", learning_rate=2e-3, final_learning_rate=1e-3, betas=(0.9, 0.98), warmup_steps=50
        ),
        loop=LoopConfig(
            num_steps=18_000,
            gradient_checkpointing=False,
            ema_decay=0.998,
            ema_warmup=True,
            log_every=100,
            validate_every=3_000,
            save_minutes=5.0,
        ),
    )


def nano_pretraining() -> TrainConfig:
    """Stage 0 of SAMA-Nano: the engine's edits as images, its captioned clips with pretext tasks."""
    images = DatasetConfig(name="image edits", engine=_engine(16_000, _NANO_IMAGES))
    captioned = DatasetConfig(name="captioned clips", engine=_engine(8_000, _NANO_CLIPS, text_to_video=True))
    return replace(nano_pictures(), name="nano_pretraining").changed(
        model={"init": "runs/nano_pictures/export"},
        data={
            "datasets": (images, captioned),
            "area": 128 * 128,
            "frame_counts": (1, 5, 9, 17),
            "pretext": True,
            "validation": ValidationConfig(size=(128, 128), num_frames=17, num_inference_steps=4),
        },
        optimizer={"learning_rate": 1e-3, "final_learning_rate": 1e-3},
        loop={"num_steps": 1_500, "log_every": 10, "validate_every": 500},
    )


def nano_finetuning() -> TrainConfig:
    """Stage 1 of SAMA-Nano: the engine's edits as clips, and as images."""
    clips = DatasetConfig(name="video edits", engine=_engine(30_000, _NANO_LONG_CLIPS, seed=1))
    images = DatasetConfig(name="image edits", engine=_engine(30_000, _NANO_IMAGES, seed=2))
    # Of all families these gain most from more samples, and they cost least.
    looks = DatasetConfig(name="looks", engine=_engine(6_000, _NANO_IMAGES, seed=3, families=("global_style",)))
    return replace(nano_pretraining(), name="nano_finetuning").changed(
        model={"init": "runs/nano_pretraining/export"},
        data={"datasets": (clips, images, looks), "image_batch_size": 48, "video_batch_size": 16, "pretext": False},
        optimizer={"learning_rate": 1.5e-3, "final_learning_rate": 1e-4},
        loop={"num_steps": 7_000, "validate_every": 1_000},
    )


def nano() -> list[TrainConfig]:
    """SAMA-Nano from nothing in some hours: small pictures, then both stages; 34 things and 8 shapes."""
    return [nano_pictures(), *(stage().started_from("previous") for stage in (nano_pretraining, nano_finetuning))]


def _with_engines(config: TrainConfig, *engines: dict[str, Any]) -> TrainConfig:
    """With other values for the engine of each of its datasets."""
    datasets = tuple(
        replace(dataset, engine=replace(dataset.engine, **values))
        for dataset, values in zip(config.data.datasets, engines, strict=True)
        if dataset.engine is not None
    )
    return config.changed(data={"datasets": datasets})


def nano_gpu() -> TrainConfig:
    """SAMA-Nano as it ships, on one GPU in ten minutes: from what `nano` trained, made twice as wide before."""
    clips, images = _NANO_LONG_CLIPS, _NANO_IMAGES
    datasets = (
        DatasetConfig(name="video edits", engine=_engine(50_000, clips, seed=1)),
        DatasetConfig(name="video things", engine=_engine(30_000, clips, seed=2, families=_THINGS)),
        DatasetConfig(name="image edits", engine=_engine(50_000, images, seed=3)),
        DatasetConfig(name="image things", engine=_engine(20_000, images, seed=4, families=_THINGS)),
        DatasetConfig(name="looks", engine=_engine(20_000, images, seed=5, families=("global_style",))),
    )
    return replace(nano_finetuning(), name="nano_gpu").changed(
        model={"init": "runs/nano-wide", "preset": "nano"},
        data={
            "datasets": datasets,
            "image_batch_size": 256,
            "video_batch_size": 128,
            "echo": 3,
            "num_workers": 15,
            "prefetch_factor": 2,
        },
        optimizer={"learning_rate": 2e-3, "final_learning_rate": 5e-5, "warmup_steps": 100},
        loop={
            "num_steps": 2_700,
            "micro_tokens": 200_000,
            "compile": True,
            "validate_every": 0,
            "log_every": 25,
            "save_minutes": 60.0,
        },
    )


def nano_distillation() -> TrainConfig:
    """SAMA-Nano in two steps, learned from what it does in sixteen; its own answer to one step is better still."""
    teacher = DistillationConfig(num_inference_steps=2, teacher_steps=8, guidance_scale=1.0)
    student = nano_finetuning().changed(
        model={"init": "nano", "train_text_encoder": False, "preset": "nano"},
        objective={"sigma_sampling": "uniform"},
        optimizer={"learning_rate": 2e-4, "final_learning_rate": 2e-5},
        loop={"num_steps": 1_000, "validate_every": 250},
    )
    return replace(student, name="nano_distillation", distillation=teacher)


def smoke() -> list[TrainConfig]:
    """Both stages in a minute or two on two cores, from the shipped nano: everything runs, little is learned."""
    tried = ValidationConfig(size=(64, 64), num_frames=9, num_inference_steps=2, families=_SMOKE_FAMILIES)
    engines = [{"num_samples": 96, "shapes": ((frames, 64, 64),)} for frames in (1, 9)]
    _, stage_0, stage_1 = nano()
    stage_1 = stage_1.changed(data={"datasets": stage_1.data.datasets[:2]})
    return [
        _with_engines(stage, *engines).changed(
            data={"image_batch_size": 8, "video_batch_size": 4, "area": 64 * 64, "validation": tried},
            loop={"num_steps": 8, "log_every": 1},
        )
        for stage in (stage_0.started_from("nano"), stage_1)
    ]


# What `ablations.py` compares the variants of

_SMALL_FAMILIES = ("global_style", "local_remove", "local_change", "replace")


def nano_small() -> list[TrainConfig]:
    """Both stages of a small nano in half an hour on two cores: shapes alone, four families, for ablations."""
    known = {"families": _SMALL_FAMILIES, "vocabulary": tuple(SHAPES)}
    pictures = _engine(16_000, ((1, 96, 96),), **known)
    # Nine frames are the least that speed perturbation takes.
    clips = _engine(4_000, ((9, 96, 96),), **known)
    captioned = DatasetConfig(name="captioned clips", engine=replace(clips, text_to_video=True))
    images = DatasetConfig(name="image edits", engine=pictures)
    pretraining = replace(nano_pictures(), name="small_pretraining").changed(
        data={
            "datasets": (images, captioned),
            "image_batch_size": 16,
            "video_batch_size": 6,
            "frame_counts": (1, 9),
            "pretext": True,
            "validation": ValidationConfig(size=(96, 96), num_frames=9, num_inference_steps=6),
        },
        loop={"num_steps": 900, "ema_decay": 0.99, "log_every": 10, "validate_every": 0},
    )
    finetuning = replace(pretraining, name="small_finetuning").changed(
        model={"init": "previous"},
        data={"datasets": (DatasetConfig(name="video edits", engine=clips), images), "pretext": False},
        optimizer={"learning_rate": 1e-3, "final_learning_rate": 1e-5},
    )
    return [pretraining, finetuning]


def components_5b() -> list[TrainConfig]:
    """Both stages of Wan2.2 5B with the video edits of Ditto-1M alone: the setting of the paper's Table 5."""
    ditto = DatasetConfig(name="Ditto-1M", manifest="datasets/Ditto-1M.parquet", catalogue="Ditto-1M")
    stage_0 = replace(factorized_pretraining("_5b"), name="components_5b_pretraining")
    stage_1 = replace(supervised_finetuning("_5b"), name="components_5b_finetuning").started_from("previous")
    short = {"num_steps": 2_000, "ema_warmup": True}
    return [stage_0.changed(loop=short), stage_1.changed(data={"datasets": (ditto,)}, loop=short)]


def roles_5b() -> TrainConfig:
    """Low-rank adapters of Wan2.2 5B on the replacements of Ditto-1M: the setting of the paper's Table 6."""
    ditto = DatasetConfig(name="Ditto-1M replace", manifest="datasets/Ditto-1M-replace.parquet")
    return replace(lora_finetuning("_5b"), name="roles_5b").changed(data={"datasets": (ditto,)})


_BY_SIZE = (factorized_pretraining, supervised_finetuning, lora_pretraining, lora_finetuning, distillation)
RECIPES: dict[str, Callable[[], TrainConfig | list[TrainConfig]]] = {
    **{recipe.__name__ + size: partial(recipe, size) for recipe in _BY_SIZE for size in _SIZES},
    **{recipe.__name__: recipe for recipe in (nano_pictures, nano_pretraining, nano_finetuning, nano, nano_gpu, smoke)},
    **{recipe.__name__: recipe for recipe in (nano_distillation, nano_small, components_5b, roles_5b)},
}


def describe_recipes() -> list[str]:
    """A line for each, with what its function says of itself."""
    functions = {name: getattr(recipe, "func", recipe) for name, recipe in RECIPES.items()}
    return [f"{name}: {(function.__doc__ or '').splitlines()[0]}" for name, function in functions.items()]


def find_recipe(name: str) -> list[TrainConfig]:
    """The stages of a recipe. Raises UserError for an unknown name."""
    name = name.replace("-", "_")
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; there is {', '.join(RECIPES)}")
    stages = RECIPES[name]()
    return stages if isinstance(stages, list) else [stages]
