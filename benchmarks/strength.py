"""How strongly a look is applied: three ways to ask for less or more, with the nano.

    python benchmarks/strength.py [--count 24]

amount     <edit - source, target - source> / |target - source|^2: 0 is the source, 1 the target's own amount
off        |edit - source - amount (target - source)| / |target - source|: what changed that nobody asked for

"mixing" is `--strength`: the edit's difference from its source, scaled. "guidance" samples 4 steps with so much of it,
"start" 4 steps from noise that is mixed with the source's latents.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from common import setting

from sama_video.editing import EditSettings, edit_frames, plan_windows
from sama_video.models.latents import encode_video
from sama_video.pipelines.loading import load_pipeline
from sama_video.synth.engine import Engine, render_draft
from sama_video.synth.sprites import NANO_VOCABULARY

STEPS = 4
Way = Callable[[np.ndarray, str, float], np.ndarray]


def ways(pipe) -> dict[str, tuple[Way, tuple[float, ...]]]:
    """By name: what edits a clip with an instruction, and the values that are tried, weak to strong."""

    def mixing(clip: np.ndarray, prompt: str, strength: float) -> np.ndarray:
        windows = plan_windows(len(clip), [], pipe.config.native_num_frames)
        pairs = edit_frames(pipe, clip, prompt, EditSettings(), windows, strength=strength)
        return torch.stack([edit for _, edit in pairs]).permute(0, 2, 3, 1).numpy()

    def sampled(clip: np.ndarray, prompt: str, **options) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return pipe(video=clip, prompt=prompt, num_inference_steps=STEPS, generator=generator, **options).frames[0]

    def guidance(clip: np.ndarray, prompt: str, scale: float) -> np.ndarray:
        return sampled(clip, prompt, guidance_scale=scale)

    def start(clip: np.ndarray, prompt: str, share: float) -> np.ndarray:
        source = encode_video(pipe.vae, pipe.prepare_video(clip, None, None, None)).float()
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
        return sampled(clip, prompt, latents=torch.lerp(noise, source, share))

    return {
        "mixing": (mixing, (0.5, 1.0, 1.6)),
        "guidance": (guidance, (1.0, 1.5, 2.5)),
        "start": (start, (0.75, 0.5, 0.0)),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24)
    count = parser.parse_args().count
    print(setting())
    pipe = load_pipeline("nano")
    pipe.set_progress_bar_config(disable=True)
    engine = Engine(split="known", vocabulary=NANO_VOCABULARY, seed=3, families=("global_style",))
    pairs = [render_draft(engine.draft(index, moving=True), 17, 128, 128) for index in range(count)]
    print("| way | value | amount | off |\n|---|---|---|---|")
    for name, (way, values) in ways(pipe).items():
        for value in values:
            amounts, off = [], []
            for index, pair in enumerate(pairs):
                source, target = (np.asarray(clip, dtype=np.float64) / 255 for clip in (pair.source, pair.target))
                change = way(pair.source, engine.draft(index, moving=True).instruction, value) - source
                wanted = target - source
                amounts.append((change * wanted).sum() / (wanted**2).sum())
                off.append(np.sqrt(((change - amounts[-1] * wanted) ** 2).sum() / (wanted**2).sum()))
            print(f"| {name} | {value:g} | {np.median(amounts):.2f} | {np.median(off):.2f} |", flush=True)


if __name__ == "__main__":
    main()
