"""The nano's semantic encoder: a small SigLIP, trained from nothing on the engine's pictures and captions.

Run `python -m sama_video.nano.siglip --out RUN`. A step takes the pictures before and after one edit and their
captions, so that most of a batch's near misses differ in one thing only. An interrupted run resumes
from its newest checkpoint. Source of the objective: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from ..synth.engine import Engine
from ..system.files import written_aside
from ..system.precision import Precision, choose_precision
from ..system.workers import in_a_process
from ..training.interrupts import EXIT_CODES, NAMES, StopRequest, stop_requests
from .parts import train_tokenizer

logger = logging.getLogger(__name__)

IMAGE_SIZE = 64
TEXT_TOKENS = 56
WIDTH = 192
PLANS_PER_STEP = 64  # two pictures each
NUM_STEPS = 750
LEARNING_RATE = 1e-3
VALIDATION_PLANS = 128


def new_model(vocab_size: int) -> SiglipModel:
    """An untrained SigLIP of the nano's size: 64 patches of 8x8 pixels, `WIDTH` wide."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 512, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config={
            **tower,
            "num_hidden_layers": 3,
            "vocab_size": vocab_size,
            "max_position_embeddings": TEXT_TOKENS,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "projection_size": WIDTH,
        },
        vision_config={**tower, "num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 8},
    )
    torch.manual_seed(0)
    model = SiglipModel(config)
    torch.nn.init.constant_(model.logit_scale, np.log(10.0))
    torch.nn.init.constant_(model.logit_bias, -10.0)
    return model


def draw_pairs(engine: Engine, first: int, count: int) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 `[2 * count, IMAGE_SIZE, IMAGE_SIZE, 3]` before and after edits, and their captions."""
    pictures, captions = [], []
    for index in range(first, first + count):
        sample = engine.pair(index, 1, IMAGE_SIZE, IMAGE_SIZE)
        pictures += [sample.source[0], sample.target[0]]
        captions += [sample.caption, sample.target_caption]
    return np.stack(pictures), captions


def sigmoid_loss(logits: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """`[B, B]` logits of picture by caption; equal captions match each other's pictures too."""
    same = torch.tensor([[float(a == b) for b in captions] for a in captions])
    return -F.logsigmoid((2 * same - 1) * logits).sum() / len(captions)


class SiglipTrainer:
    """Trains the two towers in what is fast here; everything that a resumed run needs is saved in one folder."""

    def __init__(self, out: Path, tokenizer: PreTrainedTokenizerFast, num_steps: int = NUM_STEPS):
        self.precision: Precision = choose_precision("cpu")
        self.out, self.tokenizer, self.num_steps = out, tokenizer, num_steps
        self.model = new_model(len(tokenizer))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        self.step = 0

    def logits(self, pictures: np.ndarray, captions: list[str]) -> torch.Tensor:
        """`[B, B]`, picture by caption."""
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model(input_ids=tokens.input_ids, pixel_values=pixels).logits_per_image.float()

    def train_step(self, pictures: np.ndarray, captions: list[str]) -> float:
        progress = self.step / self.num_steps
        rate = LEARNING_RATE * min(1.0, (self.step + 1) / 50) * (1 - progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = sigmoid_loss(self.logits(pictures, captions), captions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Held out: how often a picture's caption is the best of all, and better than that of its other side."""
        pictures, captions = draw_pairs(Engine(split="validation"), 0, VALIDATION_PLANS)
        logits = self.logits(pictures, captions)
        own = logits.diagonal()
        best = [captions[int(row.argmax())] == caption for row, caption in zip(logits, captions, strict=True)]
        other = logits[torch.arange(len(own)), torch.arange(len(own)) ^ 1]
        return {"top1": sum(best) / len(best), "source_or_target": float((own > other).float().mean())}

    def save(self) -> None:
        with written_aside(self.out / "checkpoint.pt") as aside:
            state = {"step": self.step, "precision": self.precision}
            torch.save(state | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, aside)

    def resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.step = state["step"]
            self.precision = state.get("precision", "bfloat16")  # earlier versions knew no other
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])

    def train(self) -> None:
        self.log({"step": self.step, "precision": self.precision})
        with stop_requests("saving after the step under way; Ctrl-C again stops at once") as request:
            self._train(request)

    def _train(self, request: StopRequest) -> None:
        saved = time.monotonic()
        for pictures, captions in batches(self.step, self.num_steps):
            loss = self.train_step(pictures, captions)
            if self.step % 20 == 0:
                self.log({"step": self.step, "loss": loss})
            if self.step % 100 == 0 or self.step == self.num_steps:
                self.log({"step": self.step, **self.validate()})
            if request.number or time.monotonic() - saved > 120 or self.step == self.num_steps:
                self.save()
                saved = time.monotonic()
            if request.number:
                told = "stopped by %s; step %d is saved, the same command continues"
                logger.info(told, NAMES[request.number], self.step)
                sys.exit(EXIT_CODES[request.number])

    def log(self, record: dict) -> None:
        with open(self.out / "metrics.jsonl", "a") as stream:
            stream.write(json.dumps(record) + "\n")
        logger.info(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in record.items()))


def batches(first: int, last: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The batches of steps `first` to `last`, drawn ahead in another process."""
    indices = (step * PLANS_PER_STEP for step in range(first, last))
    return in_a_process(partial(draw_pairs, Engine(), count=PLANS_PER_STEP), indices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoint, metrics, the result")
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = SiglipTrainer(arguments.out, train_tokenizer(num_samples=20_000, vocab_size=2048), arguments.num_steps)
    trainer.resume()
    trainer.train()
    folder = arguments.out / "nano_siglip"
    trainer.model.half().save_pretrained(folder)
    trainer.tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
