"""The average of the weights over the steps (paper section 4.1: decay 0.9998, every step).

By hand, since `torch.optim.swa_utils.AveragedModel` holds a second whole model, frozen parts and all, unsharded.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .parallel import forget_gathered


class Ema:
    """A float32 average beside every trainable parameter, sharded as the parameter is.

    Args:
        model: whose trainable parameters to follow.
        decay: fraction of the old average that a step keeps.
        warmup: step n (from 0) keeps (1 + n) / (10 + n) at most, so that the average forgets where the run began.
    """

    def __init__(self, model: nn.Module, decay: float, *, warmup: bool = False):
        self.model, self.decay, self.warmup = model, decay, warmup
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone().float() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        averages, weights = _local(self.averages.values()), _local(self.weights.values())
        torch._foreach_lerp_(averages, [weight.float() for weight in weights], 1 - decay)

    def is_finite(self) -> bool:
        """Whether all of this process's weights and averages are numbers."""
        pieces = [*_local(self.weights.values()), *_local(self.averages.values())]
        return all(bool(torch.isfinite(piece).all()) for piece in pieces)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the average inside the block, and its own weights after it."""
        own = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])
        forget_gathered(self.model)


def _local(tensors) -> list[torch.Tensor]:
    """A sharded tensor's own piece: averaging needs no other."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
