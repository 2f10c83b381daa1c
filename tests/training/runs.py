"""Runs of the real trainer with all that the tiny one leaves out: a semantic stream, edits, other streams, adapters."""

from dataclasses import replace
from pathlib import Path

import torch

from sama_video.training.config import DatasetConfig, TrainConfig
from sama_video.training.trainer import Trainer
from tests import tiny
from tests.models.test_semantic_encoder import vision_model
from tests.training import processes

EDITS = DatasetConfig(name="edits", engine=replace(processes.CLIPS.engine, num_samples=4, text_to_video=False))
CAPTIONED = DatasetConfig(name="captioned", engine=replace(processes.CLIPS.engine, num_samples=4))


def write_models(folder: Path) -> None:
    """An editor, a text-to-video model that nobody trained to edit, and a SigLIP model of their semantic width."""
    pipe = tiny.pipeline()
    pipe.save_pretrained(folder / "editor")
    pipe.transformer.reset_new_parts()
    pipe.save_pretrained(folder / "text_to_video")
    vision_model(hidden_size=12).save_pretrained(folder / "siglip")


def config(
    folder: Path, init: str = "text_to_video", *, num_steps: int = 2, semantic: bool = True, target="velocity", **model
) -> TrainConfig:
    """Edits and captioned clips; `model` changes the model's config."""
    return processes.config(
        folder / init,
        model={"semantic_encoder": str(folder / "siglip") if semantic else None} | model,
        data={"datasets": (EDITS, CAPTIONED), "pretext": model.get("source") != "channel"},
        objective={"text_dropout": 0.5, "source_dropout": 0.5, "semantic_target": target},
        optimizer={"learning_rate": 1e-2, "warmup_steps": 1},
        loop={"num_steps": num_steps, "ema_decay": 0.5},
    )


def trained(run: TrainConfig, out: Path) -> Trainer:
    trainer = processes.trainer(run, out)
    trainer.train()
    return trainer


def edited(pipe) -> torch.Tensor:
    """Latents of an edit in two steps, `[1, Z, f, h, w]`."""
    video = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(3)
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    return pipe(video=video, prompt="make it red", generator=generator, **settings).frames


def edited_by_average(trainer: Trainer) -> torch.Tensor:
    """The same with the averaged weights of a run."""
    with trainer.ema.applied():
        trainer.pipe.transformer.eval()
        return edited(trainer.pipe)
