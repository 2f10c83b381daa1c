"""What "auto" chooses against both precisions by force: a training step of the nano, and Muon's iterations alone.

A step is `Trainer.train_step` on encoded batches with Muon, as the nano trains. The three contenders take turns in one
process, so that a drifting machine slows all of them; "auto" is a trainer of its own, which has measured the
processor itself. The ratio is auto over the better of the other two in the same round: 1.0 is a perfect choice.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench_train_step import BATCH, FRAMES, SIDE, TEXT, clips
from common import setting

from sama_video.data.buckets import Bucket
from sama_video.data.samples import Batch
from sama_video.system.precision import relative_seconds
from sama_video.training.muon import orthogonal
from sama_video.training.overrides import with_settings
from sama_video.training.parallel import Parallel
from sama_video.training.recipes import find_recipe
from sama_video.training.trainer import Trainer

CONTENDERS = ("auto", "bfloat16", "float32")


def trainer_in(precision: str, folder: Path) -> Trainer:
    settings = ("model.init=nano", "model.semantic_encoder=none", "model.train_text_encoder=false")
    settings += ("data.num_workers=0", "loop.validate_every=0", f"loop.precision={precision}")
    config = with_settings(find_recipe("nano_finetuning")[0], settings)
    return Trainer(config, folder, Parallel.start(config.parallel))


def batch_for(trainer: Trainer, samples: int) -> Batch:
    transformer = trainer.pipe.transformer.config
    latents = clips(transformer.in_channels, FRAMES)[:samples]
    bucket = Bucket(height=8 * SIDE, width=8 * SIDE, num_frames=4 * FRAMES - 3, source_frames=4 * FRAMES - 3)
    return Batch(
        target=latents,
        source=latents.clone(),
        text=torch.randn(samples, TEXT, transformer.text_dim),
        semantic=None,
        prompts=["x"] * samples,
        tasks=["edit"] * samples,
        names=["x"] * samples,
        bucket=bucket,
        num_global=samples,
        is_filler=False,
    )


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, works: dict, rounds: int) -> None:
    """One line: medians of the contenders, and of auto over the better of the others."""
    for work in works.values():
        work()
    taken = [{contender: seconds(work) for contender, work in works.items()} for _ in range(rounds)]
    medians = {contender: statistics.median(one[contender] for one in taken) for contender in works}
    ratio = medians["auto"] / min(medians["bfloat16"], medians["float32"])
    listed = ", ".join(f"{contender} {value:.3f} s" for contender, value in medians.items())
    print(f"{name}: {listed}; auto / the better: {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=BATCH, help="of a step; fewer where bfloat16 is very slow")
    arguments = parser.parse_args()
    print(setting())
    print(f"processor: {platform.processor() or platform.machine()}, ATen {torch.backends.cpu.get_cpu_capability()}")
    relative_seconds.cache_clear()
    started = time.perf_counter()
    relative = relative_seconds()
    took = time.perf_counter() - started
    print(f"measured in {took:.2f} s: a product in bfloat16 takes {relative:.2f} times as long as in float32")
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer_in(name, Path(folder) / name) for name in CONTENDERS}
        print(f"auto is {trainers['auto'].precision}")
        batch = batch_for(trainers["auto"], arguments.samples)
        steps = {name: (lambda one=one: one.train_step([batch])) for name, one in trainers.items()}
        compare(f"training step, {arguments.samples} samples", steps, arguments.rounds)
        matrix = torch.randn(512, 1024)
        dtypes = {name: getattr(torch, one.precision) for name, one in trainers.items()}
        iterations = {name: (lambda dtype=dtype: orthogonal(matrix, dtype)) for name, dtype in dtypes.items()}
        compare("Muon's iterations, 512 x 1024", iterations, arguments.rounds)


if __name__ == "__main__":
    main()
