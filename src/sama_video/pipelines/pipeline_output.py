"""What the pipeline returns."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput


@dataclass
class SamaPipelineOutput(BaseOutput):
    """The edit.

    Args:
        frames: one clip per prompt: lists of PIL images, an array `[B, F, H, W, 3]` or a tensor `[B, F, 3, H, W]` in
            0..1, or with `output_type="latent"` the normalised latents `[B, Z, f, h, w]`.
        semantic_latents: the denoised semantic tokens `[B, S, D]`, or None for a model without them.
    """

    frames: Any
    semantic_latents: torch.Tensor | None = None
