"""Ways to sample an edit in less time, with the nano: seconds of sampling and what they cost in quality.

    python benchmarks/speed.py [--count 48] [--model nano]

The baseline is the release's algorithm: 50 steps, each with guidance. Edits of the split `known` of 17 frames of
128x128; success and PSNR inside the mask are against the exact target. Sampling alone is timed, not the autoencoder.
"""

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from common import setting
from diffusers import FirstBlockCacheConfig

from sama_video.media.metrics import score_edit
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.synth.engine import Engine
from sama_video.synth.sprites import NANO_VOCABULARY

GUIDANCE = 1.5  # the nano was trained without dropping its text: more of it spoils the edit


@dataclass(frozen=True, kw_only=True)
class Mode:
    name: str
    steps: int
    call: dict[str, Any] = field(default_factory=dict)
    cache: Any = None


MODES = (
    Mode(name="50 steps with guidance", steps=50, call={"guidance_scale": GUIDANCE}),
    Mode(name="guidance in the first 40 %", steps=50, call={"guidance_scale": GUIDANCE, "guidance_end": 0.4}),
    Mode(name="source in every 5th step", steps=50, call={"guidance_scale": GUIDANCE, "source_refresh": 5}),
    Mode(
        name="first block cache, 0.1",
        steps=50,
        call={"guidance_scale": GUIDANCE},
        cache=FirstBlockCacheConfig(threshold=0.1),
    ),
    Mode(name="50 steps", steps=50),
    Mode(name="50 steps, source in every 5th", steps=50, call={"source_refresh": 5}),
    Mode(name="6 steps", steps=6),
    Mode(name="4 steps", steps=4),
    Mode(name="4 steps, source in every 4th", steps=4, call={"source_refresh": 4}),
    Mode(name="2 steps", steps=2),
    Mode(name="1 step (default)", steps=1),
)


def sampled(pipe: SamaPipeline, mode: Mode, samples: list[Any]) -> tuple[float, list[Any]]:
    """Seconds of all steps, and the scores."""
    seconds, scores = 0.0, []
    denoise = pipe._denoise

    def timed(*arguments: Any) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        result = denoise(*arguments)
        seconds += time.perf_counter() - started
        return result

    pipe._denoise = timed
    if mode.cache is not None:
        pipe.transformer.enable_cache(mode.cache)
    for index, sample in enumerate(samples):
        frames = pipe(
            video=sample.source,
            prompt=sample.instruction,
            num_inference_steps=mode.steps,
            generator=torch.Generator().manual_seed(index),
            **mode.call,
        ).frames[0]
        edited = (frames.clip(0, 1) * 255).round().astype(np.uint8)
        scores.append(score_edit(edited, sample.source, sample.target, sample.mask))
    if mode.cache is not None:
        pipe.transformer.disable_cache()
    pipe._denoise = denoise
    return seconds, scores


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    pipe = load_pipeline(arguments.model, device="cpu", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    engine = Engine(split="known", vocabulary=NANO_VOCABULARY, seed=3)
    samples = [engine.pair(index, 17, 128, 128) for index in range(arguments.count)]
    sampled(pipe, MODES[-1], samples[:2])  # warm
    print(setting())
    print(f"{arguments.count} edits of `known`, 17 frames of 128x128, float32, guidance {GUIDANCE}\n")
    print("| mode | seconds an edit | times faster | success | PSNR inside | outside |\n|---|---|---|---|---|---|")
    baseline = None
    for mode in MODES:
        seconds, scores = sampled(pipe, mode, samples)
        baseline = baseline or seconds
        outside = [one.psnr_outside for one in scores if one.psnr_outside is not None and one.psnr_outside < 99]
        success, inside = np.mean([one.success for one in scores]), np.mean([one.psnr_inside for one in scores])
        speed = f"{seconds / len(samples):.2f} | {baseline / seconds:.1f}"
        print(f"| {mode.name} | {speed} | {success:.2f} | {inside:.2f} | {np.mean(outside):.1f} |", flush=True)


if __name__ == "__main__":
    main()
