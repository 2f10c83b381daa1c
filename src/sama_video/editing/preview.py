"""Small pictures of what a run is heading for, from its latents alone.

A latent holds the colours of its patch of pixels nearly as a sum of its channels. Which sum, the source tells: its
latents and its pixels are both there, whatever the autoencoder.

    p = W [z; 1],   W = argmin sum |p_source - W [z_source; 1]|^2 + ridge |W|^2

Shape legend: Z channels, f h w latent grid.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

# Takes uint8 `[f, h, w, 3]`, of which the n-th stands for frame 4 n.
ShowPreview = Callable[[np.ndarray], None]
_RIDGE = 1e-3
# What a pipeline's callback has to be given, see `SamaPipeline.__call__`.
PREVIEW_INPUTS = ["predicted_latents", "source_latents"]


def preview_of(tensors: dict[str, Any], source: np.ndarray) -> np.ndarray:
    """The clip that a step predicts.

    Args:
        tensors: `PREVIEW_INPUTS` of a pipeline's callback, both `[B, Z, f, h, w]`.
        source: the window's frames, uint8 `[F, H, W, 3]`, F at most 4 f - 3.
    """
    latents, predicted = tensors["source_latents"][:1].float().cpu(), tensors["predicted_latents"][:1].float().cpu()
    frames, height, width = latents.shape[2:]
    shown = np.minimum(4 * np.arange(frames), len(source) - 1)
    pixels = torch.from_numpy(source[shown]).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=(height, width), mode="area")
    inputs, wanted = _rows(latents), pixels.permute(0, 2, 3, 1).reshape(-1, 3)
    normal = inputs.T @ inputs + _RIDGE * len(inputs) * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(normal, inputs.T @ wanted)
    painted = (_rows(predicted) @ weights).reshape(frames, height, width, 3)
    return painted.clamp_(0, 255).round_().byte().numpy()


def _rows(latents: torch.Tensor) -> torch.Tensor:
    """`[1, Z, f, h, w]` -> `[f h w, Z + 1]`, with a column of ones."""
    rows = latents[0].flatten(1).T
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
