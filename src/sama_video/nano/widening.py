"""A trained transformer at twice its width that computes the same: what a small one learned, with room for more.

Net2WiderNet (Chen, Goodfellow and Shlens 2016, https://arxiv.org/abs/1511.05641): every unit of the width, every
attention head and every hidden unit of the feed-forward layers comes twice, and what reads them halves its weights.
"""

import math
from typing import Any

import torch

from ..models.transformer_sama import SamaTransformer3DModel


@torch.no_grad()
def widened(transformer: SamaTransformer3DModel, *, noise: float = 1.0, seed: int = 0) -> SamaTransformer3DModel:
    """At twice the width, with as many layers, in float32.

    Args:
        noise: how far apart the two copies of a unit are read, in spreads of the halved weights. It changes nothing
            that the model computes, but copies that were read alike would get the same gradients and stay copies.
        seed: of that.
    """
    config: dict[str, Any] = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    for name in ("num_attention_heads", "ffn_dim"):
        config[name] *= 2
    wide = SamaTransformer3DModel(**config)
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: weight.shape for name, weight in wide.state_dict().items()}
    weights = transformer.float().state_dict()
    wide.load_state_dict(
        {name: _doubled(name, weight, shapes[name], noise, generator) for name, weight in weights.items()}
    )
    return wide


def _doubled(
    name: str, weight: torch.Tensor, shape: torch.Size, noise: float, generator: torch.Generator
) -> torch.Tensor:
    """Along each axis that is twice as long in `shape`: repeated for who writes, split between two for who reads."""
    # The six modulations of a block lie behind each other, each as wide as the model.
    groups = 6 if ".time_proj." in f".{name}" else 1
    weight = weight.unflatten(0, (groups, -1))
    sizes = (groups, shape[0] // groups, *shape[1:])
    is_linear = len(shape) == 2 and name != "type_embedding.weight"
    for axis, size in enumerate(sizes):
        if weight.shape[axis] == size:
            continue
        first = second = weight
        if is_linear and axis == 2:
            # W h = (W / 2 + N) h + (W / 2 - N) h
            half = weight / 2
            apart = noise * half.std() * torch.randn(half.shape, generator=generator)
            first, second = half + apart, half - apart
        weight = torch.cat([first, second], dim=axis)
    assert math.prod(sizes) == weight.numel(), f"{name}: {tuple(weight.shape)} for {sizes}"
    return weight.reshape(shape)
