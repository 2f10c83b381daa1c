"""How near the shipped model's looks come to the exact looks, on clips of yours.

For every clip and look, 33 frames and an instruction whose wording was never trained on. PSNR in dB against the
exact look, computed from the source: of the unedited source (the baseline), of the model at its own size, and of the
result at the clip's size with joint upsampling. "Model to source" is how near the edit still is to the unedited
source: less than "model" means that it is nearer to the look. Writes a table and a contact sheet per clip (left: the
source; then pairs of rows, model above exact look).
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from common import setting

from sama_video.editing import EditSettings, edit_frames, frames_at_model_size, plan_edit, plan_windows
from sama_video.editing.source_stream import to_tensor
from sama_video.media.detail import fits, resize_plainly
from sama_video.pipelines.loading import load_pipeline
from sama_video.synth.instructions import LOOK_WORDINGS
from sama_video.synth.looks import LOOKS
from sama_video.video import VideoReader

COLUMNS = 7


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def psnr_at_full_size(
    reader: VideoReader, settings: EditSettings, look: str, source: torch.Tensor, edit: torch.Tensor
) -> float:
    errors = []
    full = reader.frames(settings.start, settings.num_frames)
    for frame, fit in zip(full, fits(zip(source, edit, strict=True)), strict=True):
        source = to_tensor(frame.pixels)
        exact = to_tensor(LOOKS[look](frame.pixels[None])[0])
        errors.append((fit.upsample(source) - exact).square().mean())
    return float(-10 * torch.log10(torch.stack(errors).mean()))


def sheet(source: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    height, width = source.shape[-2:]
    blank = torch.ones_like(source)
    rows = []
    for first in range(0, len(pairs), COLUMNS):
        part = pairs[first : first + COLUMNS] + [(blank, blank)] * (COLUMNS - len(pairs[first : first + COLUMNS]))
        for which in (0, 1):
            rows.append(torch.cat([source, *(pair[which] for pair in part)], dim=2))
    picture = resize_plainly(torch.cat(rows, dim=1), (height * len(rows), width * (COLUMNS + 1)))
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--num-frames", type=int, default=33)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    arguments = parser.parse_args()
    pipe = load_pipeline(arguments.model)
    steps = arguments.num_inference_steps or pipe.config.default_num_inference_steps
    print(setting())
    print(f"model {arguments.model}, {arguments.num_frames} frames, {steps} steps, seed 0\n")
    print("| clip | look | source | model | gain | model to source | full size |\n|---|---|---|---|---|---|---|")
    settings = EditSettings(num_frames=arguments.num_frames, num_inference_steps=steps)
    for clip in arguments.clips:
        reader = VideoReader(clip)
        plan = plan_edit(reader.info, settings, pipe.model_info)
        frames = np.stack([*frames_at_model_size(reader, plan, settings.num_frames)])
        windows = plan_windows(len(frames), [], plan.window)
        source, middle, pairs = to_tensor(frames), len(frames) // 2, []
        for look, make in LOOKS.items():
            exact = to_tensor(make(frames))
            edits = edit_frames(pipe, frames, LOOK_WORDINGS[look]["validation"], settings, windows)
            edit = torch.stack([one for _, one in edits])
            full = psnr_at_full_size(reader, settings, look, source, edit)
            before, after = psnr(source, exact), psnr(edit, exact)
            scores = f"{before:.1f} | {after:.1f} | {after - before:+.1f} | {psnr(edit, source):.1f} | {full:.1f}"
            print(f"| {clip.stem} | {look} | {scores} |", flush=True)
            pairs.append((edit[middle], exact[middle]))
        if arguments.sheets:
            arguments.sheets.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(sheet(source[middle], pairs)).save(arguments.sheets / f"{clip.stem}.png")


if __name__ == "__main__":
    main()
