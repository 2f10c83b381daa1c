"""Editing a clip in memory: ComfyUI's IMAGE and MASK in, IMAGE out. Knows nothing of ComfyUI.

Shape legend: F frames, H W the clip's size, h w the model's. IMAGE is float32 `[F, H, W, 3]` in 0..1, MASK float32
`[F, H, W]` or `[1, H, W]` in 0..1: 1 is edited, 0 kept.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch

from sama_video import EditSettings, SamaPipeline
from sama_video.editing import edit_frames, plan_edit, plan_windows
from sama_video.editing.editor import bring_back
from sama_video.editing.preview import ShowPreview
from sama_video.editing.region import softened, usual_feather
from sama_video.editing.settings import Box
from sama_video.editing.source_stream import coarse_size
from sama_video.media.shots import changes, find_cuts
from sama_video.system.errors import UserError
from sama_video.system.workers import Progress, silent
from sama_video.video import VideoInfo, resized


def edit_clip(
    pipe: SamaPipeline,
    images: torch.Tensor,
    instruction: str,
    settings: EditSettings,
    *,
    mask: torch.Tensor | None = None,
    feather: int | None = None,
    progress: Progress = silent,
    show_preview: ShowPreview | None = None,
) -> torch.Tensor:
    """Edit a clip as `edit_video` edits a file: in windows of the model's length that hold no cut, at its own size.

    Args:
        images: IMAGE, of any size and length.
        mask: MASK of the same height and width; where it is 0, the result is the source, exactly.
        feather: pixels inside the mask's border over which the edit fades in; None for 2 % of the shorter side.
        progress: called as ("editing", steps done, of) and ("writing", frames done, of).
        show_preview: called after every step with small frames of what it is heading for.

    Returns:
        IMAGE of the same shape.

    Raises:
        UserError: for a clip or a mask that cannot be used.
    """
    images = _checked(images)
    num_frames, height, width, _ = images.shape
    weights = None if mask is None else _weights(mask, images.shape, feather)
    info = VideoInfo(height, width, Fraction(1), num_frames, has_audio=False, is_image=num_frames == 1)
    plan = plan_edit(info, settings, pipe.model_info)

    def frames(size: tuple[int, int]) -> Iterator[np.ndarray]:
        for image in images:
            yield resized(image.clamp(0, 1).mul(255).round().byte().numpy(), size)

    cuts = find_cuts(list(changes(frames(coarse_size(height, width)))))
    windows = plan_windows(num_frames, cuts, plan.window)
    strength = 1.0 if settings.strength is None else settings.strength
    shown = frames(plan.model_size)
    pairs = edit_frames(pipe, shown, instruction, settings, windows, progress, strength, show_preview)

    result = torch.empty_like(images)
    for index, enlarged in enumerate(bring_back(pairs, plan)):
        source = images[index].movedim(-1, 0)
        edit = enlarged(source.clamp(0, 1))
        if weights is not None:
            edit = torch.lerp(source, edit, weights[min(index, len(weights) - 1)])
        result[index] = edit.movedim(0, -1)
        progress("writing", index + 1, num_frames)
    return result


def box_mask(box: str, height: int, width: int) -> torch.Tensor:
    """MASK `[1, H, W]` that is 1 inside of "X,Y,WIDTH,HEIGHT" (pixels, or percent with "%") and 0 elsewhere.

    Raises:
        UserError: for a box that is none, or lies outside of the picture.
    """
    mask = torch.zeros(1, height, width)
    top, left, tall, wide = Box.parse(box).pixels(height, width)
    mask[:, top : top + tall, left : left + wide] = 1
    if not mask.any():
        raise UserError(f"`box` {box} lies outside of the picture, which has {width}x{height} pixels")
    return mask


def _checked(images: torch.Tensor) -> torch.Tensor:
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise UserError(f"`images` must be frames, height, width and 3 colours, got {list(images.shape)}")
    images = images.detach().float().cpu()
    if not images.isfinite().all():
        raise UserError("`images` hold values that are not finite; look at the node that made them")
    return images


def _weights(mask: torch.Tensor, shape: torch.Size, feather: int | None) -> list[torch.Tensor]:
    """Of the edit, `[H, W]` for each frame or for all."""
    num_frames, height, width, _ = shape
    mask = mask.detach().float().cpu().clamp(0, 1)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or len(mask) not in (1, num_frames) or mask.shape[1:] != (height, width):
        raise UserError(
            f"`mask` must have one frame or {num_frames}, each {width}x{height} as the clip, got "
            f"{len(mask)} of {mask.shape[-1]}x{mask.shape[-2]}; resize it"
        )
    if not mask.any():
        raise UserError("`mask` selects nothing: 1 is edited, 0 is kept")
    feather = usual_feather(height, width) if feather is None else feather
    return [torch.from_numpy(softened(frame.numpy(), feather)) for frame in mask]
