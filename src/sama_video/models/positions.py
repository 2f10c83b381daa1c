"""Where tokens are: as features that they carry, and as Wan's rotary factors at any place.

Shape legend: F H W grid of tokens, S semantic tokens.
"""

import math
from collections.abc import Sequence

import torch

from .shapes import anchor_indices, frames_of_latents, tokens_per_anchor

ROPE_THETA = 10000.0
POSITION_FREQUENCIES = 4


def absolute_positions(grid: Sequence[int]) -> torch.Tensor:
    """`[F, H, W, 6 * POSITION_FREQUENCIES]`: sin and cos of k pi t, k pi y and k pi x for k from 1.

    From the first frame (t = 0) to the last (t = 1), and with y and x from 0 to 1 over the frame, at the tokens'
    centres: "halfway" and "at the bottom" mean the same at every size and length.
    """
    frames, rows, columns = grid
    time = torch.linspace(0, 1, frames)  # of a picture: 0
    row, column = ((torch.arange(size) + 0.5) / size for size in (rows, columns))
    coordinates = torch.stack(torch.meshgrid(time, row, column, indexing="ij"), dim=-1)
    angles = coordinates[..., None] * math.pi * torch.arange(1, POSITION_FREQUENCIES + 1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(3)


def semantic_positions(num_tokens: int, side: int, grid: torch.Size, patch: tuple[int, int, int]) -> torch.Tensor:
    """float64 `[S, 3]`: (frame, row, column) of semantic tokens on the target's grid of tokens, see `semantic_rope`.

    Args:
        side: the model's `semantic_grid`. The number of tokens alone would not tell: 85 could be five anchors of 4 x 4.

    Raises:
        ValueError: for tokens that are no whole anchors, or more anchors than frames.
    """
    frames, rows, columns = (size // step for size, step in zip(grid, patch, strict=True))
    per_anchor = tokens_per_anchor(side)
    if num_tokens % per_anchor:
        raise ValueError(
            f"with semantic_grid={side} an anchor frame has {per_anchor} semantic tokens, so there cannot be "
            f"{num_tokens}; use a multiple of {per_anchor}"
        )
    middle = torch.tensor([[(rows - 1) / 2, (columns - 1) / 2]], dtype=torch.float64)
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    regions = torch.cartesian_prod(centres * rows - 0.5, centres * columns - 0.5).view(-1, 2)
    in_plane = torch.cat([regions, middle])
    num_frames = frames_of_latents(grid[0])
    anchors = anchor_indices(num_frames, num_tokens // per_anchor)
    times = torch.tensor([index / max(num_frames - 1, 1) * (frames - 1) for index in anchors], dtype=torch.float64)
    return torch.cat([torch.cat([time.expand(len(in_plane), 1), in_plane], dim=1) for time in times])


def rotary_at(
    positions: torch.Tensor, widths: tuple[int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Wan's rotary factors at any places on the grid: cos and sin `[1, S, 1, head_dim]`.

    Args:
        positions: `[S, 3]`, frame, row and column.
        widths: dimensions of a head for each of them; their sum is `head_dim`.
    """
    angles = []
    for axis, width in enumerate(widths):
        exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
        frequencies = ROPE_THETA**-exponents
        angles.append((positions[:, axis, None] * frequencies).repeat_interleave(2, dim=1))
    angle = torch.cat(angles, dim=1)[None, :, None]
    return angle.cos().to(dtype), angle.sin().to(dtype)
