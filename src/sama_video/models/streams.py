"""What goes into the transformer's sequence beside Wan's own tokens: what may be configured, its modules, its checks.

Shape legend: that of `transformer_sama.py`.
"""

from typing import Any, Literal

import torch
from torch import nn

SOURCE_TYPE, SEMANTIC_TYPE, TARGET_TYPE = 0, 1, 2

Roles = Literal["type", "shifted_rope"]
Source = Literal["token", "channel"]
SourceAttention = Literal["full", "self"]
Prediction = Literal["velocity", "clean"]
STREAMS_CONFIG = {
    "semantic_rope": ("zero", "identity", "grid"),
    "semantic_prediction": ("velocity", "clean"),
    "roles": ("type", "shifted_rope"),
    "source": ("token", "channel"),
    "source_attention": ("full", "self"),
    "prediction": ("velocity", "around_source"),
}


def check_streams_config(*, semantic_grid: object, source: str, source_attention: str, **values: str) -> None:
    """Raises ValueError for a value that there is not, or two that do not go together."""
    for name, value in {"source": source, "source_attention": source_attention, **values}.items():
        allowed = STREAMS_CONFIG[name]
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    if not isinstance(semantic_grid, int) or semantic_grid < 1:
        raise ValueError(f"semantic_grid must be a whole number of 1 or more, got {semantic_grid!r}")
    if source_attention == "self" and source != "token":
        raise ValueError('source_attention="self" is for sources that come as tokens, not by channel')


class SemanticProjector(nn.Module):
    """LayerNorm and a two-layer MLP from semantic features to the transformer's width (paper section 3.2)."""

    def __init__(self, semantic_dim: int, hidden_dim: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(semantic_dim, eps=1e-6)
        self.fc1 = nn.Linear(semantic_dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, width)

    def forward(self, semantic_hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(self.norm(semantic_hidden_states))))


class SemanticHead(nn.Module):
    """Affine LayerNorm and a linear map from the last block's output to semantic features, without modulation."""

    def __init__(self, width: int, semantic_dim: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Linear(width, semantic_dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.proj(self.norm(hidden_states))


def check_streams(
    config: Any,
    hidden_states: torch.Tensor,
    source_hidden_states: torch.Tensor | None,
    semantic_hidden_states: torch.Tensor | None,
) -> None:
    """Raises ValueError for streams whose shapes do not fit the transformer's config or each other."""
    for name, latents in (("hidden_states", hidden_states), ("source_hidden_states", source_hidden_states)):
        if latents is None:
            continue
        if latents.ndim != 5 or latents.shape[1] != config.in_channels:
            raise ValueError(f"{name} must be [B, {config.in_channels}, F, H, W], got {tuple(latents.shape)}")
        if any(size % patch for size, patch in zip(latents.shape[2:], config.patch_size, strict=True)):
            raise ValueError(f"{name}'s grid {tuple(latents.shape[2:])} must divide by the patch {config.patch_size}")
        if len(latents) != len(hidden_states):
            raise ValueError(f"{name} has batch {len(latents)}, hidden_states {len(hidden_states)}")
        if config.source == "channel" and latents.shape != hidden_states.shape:
            raise ValueError(
                f"a source beside the target's channels must have the target's grid "
                f"{tuple(hidden_states.shape[2:])}, got {tuple(latents.shape[2:])}; cut both clips alike"
            )
    if semantic_hidden_states is not None and (
        semantic_hidden_states.ndim != 3
        or semantic_hidden_states.shape[-1] != config.semantic_dim
        or len(semantic_hidden_states) != len(hidden_states)
    ):
        raise ValueError(
            f"semantic_hidden_states must be [{len(hidden_states)}, S, {config.semantic_dim}], "
            f"got {tuple(semantic_hidden_states.shape)}"
        )


def velocity_of_tokens(
    prediction: Prediction, predicted: torch.Tensor | None, semantic: torch.Tensor | None, sigma: torch.Tensor
) -> torch.Tensor | None:
    """The semantic head's prediction as a velocity: `noise - s = (s_sigma - s) / sigma` where it predicts `s`."""
    if predicted is None or semantic is None or prediction == "velocity":
        return predicted
    return (semantic - predicted.float()) / sigma
