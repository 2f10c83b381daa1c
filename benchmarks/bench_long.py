"""Long clips against short ones, with the nano: success, flicker where windows meet, memory from 10 s to 4 minutes.

    python benchmarks/bench_long.py [--steps 1] [--minutes 4]

The engine's edits of the split `known` at 20 times the length of training; the same edits at that length are the
baseline. Flicker at a border is how much the result's error changes from frame to frame there, over that elsewhere.
"""

import argparse
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from common import own_memory, setting

from sama_video.editing import EditSettings, edit_frames, edit_video, plan_windows
from sama_video.media.metrics import score_edit
from sama_video.pipelines.loading import load_pipeline
from sama_video.synth.engine import Engine, render_draft
from sama_video.synth.sprites import NANO_VOCABULARY
from sama_video.video import write_lossless

TIMES = 20
FAMILIES = ("local_remove", "local_change", "global_style", "background_change")


def edited(pipe, clip: np.ndarray, prompt: str, settings: EditSettings) -> tuple[np.ndarray, list[int]]:
    windows = plan_windows(len(clip), [], pipe.config.native_num_frames)
    edits = torch.stack([edit for _, edit in edit_frames(pipe, clip, prompt, settings, windows)])
    borders = [frame for one in windows[1:] for frame in range(one.start, one.start + one.overlap + 1)]
    return (edits * 255).round().byte().permute(0, 2, 3, 1).numpy(), borders


def quality(count: int, steps: int | None) -> None:
    pipe = load_pipeline("nano")
    pipe.set_progress_bar_config(disable=True)
    frames = pipe.config.native_num_frames
    engine = Engine(split="known", vocabulary=NANO_VOCABULARY, seed=1, families=FAMILIES)
    settings = EditSettings(num_inference_steps=steps)
    successes: dict[str, list[float]] = {"short": [], "long": []}
    ratios = []
    for index in range(count):
        draft = engine.draft(index, moving=True)
        for name, length in (("short", frames), ("long", TIMES * frames)):
            pair = render_draft(draft, length, 128, 128)
            result, borders = edited(pipe, pair.source, draft.instruction, settings)
            successes[name].append(score_edit(result, pair.source, pair.target, pair.mask).success)
            if name == "long":
                error = result.astype(np.float32) - pair.target
                change = np.abs(np.diff(error, axis=0)).mean(axis=(1, 2, 3))
                at_border = np.isin(np.arange(1, length), borders)
                ratios.append(change[at_border].mean() / change[~at_border].mean())
        print(f"{index + 1} of {count}: {draft.instruction}", file=sys.stderr)
    short, long = (np.mean(successes[name]) for name in ("short", "long"))
    print(f"success of {count} edits: {frames} frames {short:.3f}, {TIMES * frames} frames {long:.3f}")
    print(f"change of the error from frame to frame, at borders over elsewhere: median {np.median(ratios):.2f}")


def edit_file(clip: str, result: str) -> None:
    """In a process of its own: prints MiB at the peak."""
    edit_video(load_pipeline("nano"), clip, "Make it black and white", result)
    print(own_memory("VmHWM") / 2**20)


def peak_memory(clip: Path) -> float:
    """MiB of a process that edits a file."""
    command = [sys.executable, __file__, "--edit", str(clip), str(clip.with_suffix(".out.mp4"))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def memory(minutes: float) -> None:
    draft = Engine(split="known", vocabulary=NANO_VOCABULARY, seed=2).draft(0, moving=True)
    shot = render_draft(draft, 250, 120, 160).source
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for seconds in (10, round(60 * minutes)):
            clip = Path(folder) / f"{seconds}.mp4"
            write_lossless(clip, np.concatenate([shot, shot[::-1]] * (seconds // 20 + 1))[: 25 * seconds], Fraction(25))
            peaks.append(peak_memory(clip))
            print(f"{seconds} s of 160x120 at 25 a second: peak {peaks[-1]:.0f} MiB", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--only", choices=["memory", "quality"])
    parser.add_argument("--edit", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.edit is not None:
        edit_file(*arguments.edit)
        return
    print(setting())
    if arguments.only != "quality":
        memory(arguments.minutes)
    if arguments.only != "memory":
        quality(arguments.count, arguments.steps)


if __name__ == "__main__":
    main()
