"""Runs by name: functions that return a full config. `sama train RECIPE` takes one; `--set` changes single values.

Values of the large models are the paper's (section 4.1, Table 1). Its datasets are named here; their manifests are
where the user put them, `data.datasets.N.manifest`. A recipe without a size is for Wan2.1 14B, the paper's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..data.catalogue import CATALOGUE
from ..synth.sprites import NANO_VOCABULARY
from ..system.errors import UserError
from .config import (
    DataConfig,
    DatasetConfig,
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
    return replace(
        stage_0,
        name=f"supervised_finetuning{size}",
        model=replace(stage_0.model, init=f"runs/{stage_0.name}/export"),
        data=replace(stage_0.data, datasets=_table_1(1), pretext=False),
    )


def lora_pretraining(size: str = "") -> TrainConfig:
    """Stage 0 on one GPU: low-rank adapters, small batches."""
    return _with_adapters(factorized_pretraining(size), f"lora_pretraining{size}")


def lora_finetuning(size: str = "") -> TrainConfig:
    """Stage 1 on one GPU: low-rank adapters, small batches; of the released model where there is one."""
    stage_1, stage_0 = supervised_finetuning(size), factorized_pretraining(size)
    init = stage_0.model.init if size else "sama-14b"
    return _with_adapters(stage_1.started_from(init), f"lora_finetuning{size}")


def _with_adapters(full: TrainConfig, name: str) -> TrainConfig:
    return replace(
        full,
        name=name,
        model=replace(full.model, lora=LoraConfig()),
        data=replace(full.data, image_batch_size=16, video_batch_size=4),
        optimizer=OptimizerConfig(learning_rate=1e-4, final_learning_rate=1e-5),
        loop=LoopConfig(num_steps=2_000, ema_warmup=True),
    )


_SMOKE_FAMILIES = ("global_style", "local_add", "subtitle_edit")  # a look, a thing, a text
_NANO_IMAGES = ((1, 128, 128), (1, 112, 144), (1, 144, 112))
_NANO_CLIPS = (
    *((9, 128, 128), (9, 112, 144), (9, 144, 112), (9, 96, 176), (9, 176, 96), (9, 80, 192)),
    *((17, 128, 128), (33, 128, 128), (33, 96, 176), (17, 144, 112)),
)


def _nano(name: str, init: str, data: DataConfig, num_steps: int) -> TrainConfig:
    return TrainConfig(
        name=name,
        model=ModelConfig(init=init, semantic_encoder="nano", train_text_encoder=True),
        data=data,
        objective=ObjectiveConfig(sigma_shift=3.0, text_dropout=0.05),
        optimizer=OptimizerConfig(
            kind="muon", learning_rate=2e-3, final_learning_rate=1.5e-3, betas=(0.9, 0.98), warmup_steps=50
        ),
        loop=LoopConfig(
            gradient_checkpointing=False, ema_decay=0.998, ema_warmup=True, save_minutes=5.0, num_steps=num_steps
        ),
    )


def _nano_data(**changes) -> DataConfig:
    return DataConfig(
        **{
            "image_batch_size": 36,
            "video_batch_size": 12,
            "num_workers": 1,
            "frame_counts": (1, 5, 9, 17, 33),
            "validation": ValidationConfig(size=(128, 128), num_frames=17, num_inference_steps=6),
        }
        | changes
    )


def nano_pretraining() -> TrainConfig:
    """Stage 0 of SAMA-Nano: the engine's edits as images, its captioned clips with pretext tasks."""
    images = EngineConfig(num_samples=60_000, shapes=_NANO_IMAGES)
    clips = EngineConfig(num_samples=20_000, shapes=_NANO_CLIPS, text_to_video=True)
    datasets = (DatasetConfig(name="image edits", engine=images), DatasetConfig(name="captioned clips", engine=clips))
    return _nano("nano_pretraining", "runs/nano-init", _nano_data(datasets=datasets, area=128 * 128), num_steps=1500)


def nano_finetuning() -> TrainConfig:
    """Stage 1 of SAMA-Nano: the engine's edits as clips, and some as images."""
    clips = EngineConfig(num_samples=24_000, shapes=_NANO_CLIPS)
    images = EngineConfig(num_samples=24_000, shapes=_NANO_IMAGES)
    datasets = (DatasetConfig(name="video edits", engine=clips), DatasetConfig(name="image edits", engine=images))
    data = _nano_data(datasets=datasets, area=128 * 128, pretext=False)
    config = _nano("nano_finetuning", "runs/nano_pretraining/export", data, num_steps=3000)
    return replace(config, optimizer=replace(config.optimizer, learning_rate=1.5e-3, final_learning_rate=1e-5))


def nano() -> list[TrainConfig]:
    """Both stages of SAMA-Nano."""
    return [nano_pretraining(), nano_finetuning().started_from("previous")]


def nano_gpu() -> list[TrainConfig]:
    """Both stages of SAMA-Nano on one GPU in some minutes: 34 things and 8 shapes."""

    def data(*datasets: tuple[str, EngineConfig], **changes) -> DataConfig:
        known = [(name, replace(engine, vocabulary=NANO_VOCABULARY, loose=0.0)) for name, engine in datasets]
        return _nano_data(
            datasets=tuple(DatasetConfig(name=name, engine=engine) for name, engine in known),
            area=128 * 128,
            image_batch_size=256,
            video_batch_size=128,
            num_workers=15,
            prefetch_factor=2,
            **changes,
        )

    def on_gpu(config: TrainConfig, rate: float, final: float) -> TrainConfig:
        optimizer = replace(config.optimizer, learning_rate=rate, final_learning_rate=final)
        objective = replace(config.objective, text_dropout=0.0)
        loop = replace(
            config.loop, micro_tokens=200_000, compile=True, validate_every=0, log_every=50, save_minutes=60.0
        )
        return replace(config, optimizer=optimizer, objective=objective, loop=loop)

    pictures = EngineConfig(num_samples=400_000, shapes=((1, 128, 128), *_NANO_IMAGES))
    captioned = EngineConfig(num_samples=30_000, shapes=((9, 128, 128), (5, 128, 128)), text_to_video=True)
    clips = EngineConfig(num_samples=300_000, shapes=((5, 128, 128), (9, 128, 128), (17, 128, 128), (9, 96, 176)))
    stage_0 = _nano(
        "nano_gpu_pretraining",
        "runs/nano-init",
        data(("image edits", pictures), ("captioned clips", captioned)),
        num_steps=1500,
    )
    stage_1 = _nano(
        "nano_gpu_finetuning",
        "previous",
        data(("video edits", clips), ("image edits", replace(pictures, num_samples=100_000)), pretext=False),
        num_steps=1800,
    )
    return [on_gpu(stage_0, 2e-3, 1.5e-3), on_gpu(stage_1, 1.5e-3, 1e-5)]


def smoke() -> list[TrainConfig]:
    """Both stages in a minute or two on two cores, from the shipped nano: everything runs, little is learned."""
    shapes = ((1, 64, 64), (9, 64, 64))

    def short(config: TrainConfig, init: str) -> TrainConfig:
        datasets = tuple(
            replace(dataset, engine=replace(dataset.engine, num_samples=96, shapes=shapes[number : number + 1]))
            for number, dataset in enumerate(config.data.datasets)
            if dataset.engine is not None
        )
        return replace(
            config.started_from(init),
            data=replace(
                config.data,
                datasets=datasets,
                image_batch_size=8,
                video_batch_size=4,
                area=64 * 64,
                validation=ValidationConfig(
                    size=(64, 64), num_frames=9, num_inference_steps=2, families=_SMOKE_FAMILIES
                ),
            ),
            loop=replace(config.loop, num_steps=8, log_every=1),
        )

    return [short(nano_pretraining(), "nano"), short(nano_finetuning(), "previous")]


RECIPES: dict[str, Callable[[], TrainConfig | list[TrainConfig]]] = {
    **{
        recipe.__name__ + size: partial(recipe, size)
        for recipe in (factorized_pretraining, supervised_finetuning, lora_pretraining, lora_finetuning)
        for size in _SIZES
    },
    **{recipe.__name__: recipe for recipe in (nano_pretraining, nano_finetuning, nano, nano_gpu, smoke)},
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
