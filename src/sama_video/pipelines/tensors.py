"""What a call takes for a video, as one tensor; and a decoded video as what a call gives back."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from einops import rearrange

from ..models.shapes import nearest_multiple, neighbouring_num_frames

Video = Sequence[PIL.Image.Image] | np.ndarray | torch.Tensor


def _stack_pictures(pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
    """uint8 `[F, H, W, 3]`."""
    if isinstance(pictures, str | os.PathLike) or not all(isinstance(one, PIL.Image.Image) for one in pictures):
        raise ValueError(
            f"a video is PIL images, an array [F, H, W, 3] or a tensor [F, 3, H, W], got {type(pictures).__name__}; "
            "sama_video.edit_video takes files"
        )
    if not pictures:
        raise ValueError("the video has no frames; give at least one")
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"the frames have several sizes (width, height): {sorted(sizes)}; resize them to one")
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def _in_model_range(video: torch.Tensor) -> torch.Tensor:
    """uint8, or float in 0..1, to float32 in [-1, 1]."""
    if video.dtype == torch.uint8:
        return video.float() * (2 / 255) - 1
    if not (video.min() >= 0 and video.max() <= 1):  # so that NaN is refused, too
        raise ValueError("float frames must have values from 0 to 1")
    return video.float() * 2 - 1


def video_to_tensor(
    video: Video, height: int | None, width: int | None, num_frames: int | None, pixel_multiple: int
) -> torch.Tensor:
    """As `SamaPipeline.prepare_video`."""
    if not isinstance(video, np.ndarray | torch.Tensor):
        video = _stack_pictures(video)
    if isinstance(video, np.ndarray):
        video = torch.from_numpy(np.ascontiguousarray(video)).movedim(-1, 1)
    if video.ndim != 4 or video.shape[1] != 3 or len(video) == 0:
        raise ValueError(f"a video is frames [F, 3, H, W] (arrays: [F, H, W, 3]), got {tuple(video.shape)}")
    video = _in_model_range(video[:num_frames])
    size = (height or video.shape[-2], width or video.shape[-1])
    if size != tuple(video.shape[-2:]):
        video = F.interpolate(video, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    if size[0] % pixel_multiple or size[1] % pixel_multiple:
        fitting = [nearest_multiple(length, pixel_multiple) for length in size]
        raise ValueError(
            f"the video's sides {size[0]}x{size[1]} must divide by {pixel_multiple}: "
            f"pass height={fitting[0]}, width={fitting[1]} to have it resized"
        )
    _, padded = neighbouring_num_frames(len(video))
    video = torch.cat([video, video[-1:].expand(padded - len(video), -1, -1, -1)])
    return rearrange(video, "f c h w -> 1 c f h w")


def to_output(video: torch.Tensor, output_type: str) -> Any:
    """`[B, 3, F, H, W]` in [-1, 1] -> frames as PIL lists, array or tensor, rounded to the nearest level."""
    video = rearrange(video.float() / 2 + 0.5, "b c f h w -> b f c h w").clamp(0, 1)
    if output_type == "pt":
        return video
    array = rearrange(video, "b f c h w -> b f h w c").cpu().numpy()
    if output_type == "np":
        return array
    return [[PIL.Image.fromarray(frame) for frame in (clip * 255).round().astype(np.uint8)] for clip in array]
