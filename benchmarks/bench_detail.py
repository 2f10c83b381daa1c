"""Joint upsampling to 1280x720, a frame, the fit included; baseline: plain bicubic upsampling."""

import torch
from common import compare, report, setting

from sama_video.media.detail import fits, resize_plainly

FRAMES = 16


@torch.no_grad()
def main() -> None:
    print(setting())
    print(f"{FRAMES} frames from 176x96 to 1280x720, a third of the picture not explained by the source")
    g = torch.Generator().manual_seed(0)
    source = torch.rand(FRAMES, 3, 96, 176, generator=g)
    edit = 1 - source
    edit[..., :58] = torch.rand(FRAMES, 3, 96, 58, generator=g)
    full = torch.rand(3, 720, 1280, generator=g)

    def ours() -> None:
        for fit in fits(zip(source, edit, strict=True)):
            fit.upsample(full)

    def plainly() -> None:
        for index in range(FRAMES):
            resize_plainly(edit[index], (720, 1280))

    joint, plain, ratio = compare(ours, plainly, rounds=5)
    report("a frame", joint / FRAMES, plain / FRAMES, ratio)


if __name__ == "__main__":
    main()
