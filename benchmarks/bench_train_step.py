"""A training step (forward, backward, optimizer, average of the weights) against a plain loop of stock diffusers.

Ours: `Trainer.train_step` on encoded batches, source and target in one sequence. Baseline: accelerate, AdamW and stock
`WanTransformer3DModel` of the same size over as many tokens (twice the frames), no average. Both run in what this
machine is fast in (`precision.py`): under bfloat16 autocast or in float32. Each contender runs in processes of its own,
in turn. Memory is the peak beyond what the process held after its imports.
"""

import argparse
import inspect
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from common import setting

from sama_video.models.presets import PRESETS
from sama_video.system.platforms import peak_memory
from sama_video.system.precision import choose_precision

FRAMES, SIDE, BATCH = 5, 16, 8  # latent frames of one stream, latent side, samples
TEXT = PRESETS["nano"].settings.max_sequence_length  # rows
STEPS, ROUNDS = 6, 5
PRECISION = choose_precision("cpu")


def clips(channels: int, frames: int) -> torch.Tensor:
    return torch.randn(BATCH, channels, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def held() -> float:
    """MiB of this process."""
    return psutil.Process().memory_info().rss / 2**20


def peak() -> float:
    """MiB, the most so far."""
    return peak_memory() / 2**20


def seconds_per_step(step) -> float:
    step()
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def ours() -> tuple[float, float]:
    from sama_video.data.buckets import Bucket
    from sama_video.data.samples import Batch
    from sama_video.training.overrides import with_settings
    from sama_video.training.parallel import Parallel
    from sama_video.training.recipes import find_recipe
    from sama_video.training.trainer import Trainer

    settings = ("model.semantic_encoder=none", "model.train_text_encoder=false", "optimizer.kind=adamw")
    settings += ("model.init=nano", "data.num_workers=0", "loop.validate_every=0", f"loop.precision={PRECISION}")
    config = with_settings(find_recipe("nano_finetuning")[0], settings)
    imported = held()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder), Parallel.start(config.parallel))
        transformer = trainer.pipe.transformer.config
        latents = clips(transformer.in_channels, FRAMES)
        bucket = Bucket(height=8 * SIDE, width=8 * SIDE, num_frames=4 * FRAMES - 3, source_frames=4 * FRAMES - 3)
        batch = Batch(
            target=latents,
            source=latents.clone(),
            text=torch.randn(BATCH, TEXT, transformer.text_dim),
            semantic=None,
            prompts=["x"] * BATCH,
            tasks=["edit"] * BATCH,
            names=["x"] * BATCH,
            bucket=bucket,
            num_global=BATCH,
            is_filler=False,
        )
        return seconds_per_step(lambda: trainer.train_step([batch])), peak() - imported


def baseline() -> tuple[float, float]:
    from accelerate import Accelerator
    from diffusers import WanTransformer3DModel

    imported = held()
    stock = inspect.signature(WanTransformer3DModel).parameters
    arguments = {name: value for name, value in PRESETS["nano"].transformer.items() if name in stock}
    accelerator = Accelerator(mixed_precision="bf16" if PRECISION == "bfloat16" else "no", cpu=True)
    model = WanTransformer3DModel(**arguments)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer = accelerator.prepare(model, optimizer)
    latents = clips(arguments["in_channels"], 2 * FRAMES)
    text = torch.randn(BATCH, TEXT, arguments["text_dim"])

    def step() -> None:
        noise, sigma = torch.randn_like(latents), torch.rand(BATCH)
        level = sigma.view(-1, 1, 1, 1, 1)
        output = model((1 - level) * latents + level * noise, 1000 * sigma, text, return_dict=False)[0]
        accelerator.backward(torch.nn.functional.mse_loss(output.float(), noise - latents))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return seconds_per_step(step), peak() - imported


def measured(contender: str) -> tuple[float, float]:
    """Seconds a step and memory in MiB, of a process of its own."""
    command = [sys.executable, __file__, "--contender", contender]
    seconds, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(seconds), float(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", choices=("ours", "baseline"))
    arguments = parser.parse_args()
    if arguments.contender:
        print(*{"ours": ours, "baseline": baseline}[arguments.contender]())
        return
    tokens = 2 * FRAMES * (SIDE // 2) ** 2
    print(setting())
    print(f"nano, {BATCH} samples of {tokens} tokens, {PRECISION}, AdamW; {ROUNDS} processes each, {STEPS} steps")
    pairs = [(measured("ours"), measured("baseline")) for _ in range(ROUNDS)]
    for name, values in zip(("ours", "baseline"), zip(*pairs, strict=True), strict=True):
        seconds, memory = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name}: {seconds:.3f} s a step, {memory:.0f} MiB")
    ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in pairs)
    extra = statistics.median(mine[1] - theirs[1] for mine, theirs in pairs)
    average = PRESETS["nano"].num_parameters * 4 / 2**20
    print(
        f"ratio ours / baseline: {ratio:.3f}; memory beyond the baseline's: {extra:.0f} MiB, the average of weights "
        f"alone takes {average:.0f}"
    )


if __name__ == "__main__":
    main()
