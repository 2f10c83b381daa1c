"""Muon: momentum whose matrices are made orthogonal before the step, in bfloat16 or float32.

`torch.optim.Muon` does the same, but in bfloat16 alone, which takes over ten times as long on processors without
bfloat16 arithmetic. Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the
scale of the rate from Liu et al., "Muon is Scalable for LLM Training", 2025.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_MOMENTUM = 0.95
# Of the quintic a x + b x^3 + c x^5, chosen for its slope at 0: it lifts small singular values in few iterations.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """As `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, bit by bit in bfloat16; sharded matrices as they are.

    Args:
        matrices: parameters with two dimensions.
        weight_decay: fraction of a weight that a step takes off at a rate of 1.
        dtype: of the iterations that make a matrix orthogonal.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, weight_decay: float, dtype: torch.dtype, lr: float = 0.0):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype
        for group in self.param_groups:
            for matrix in group["params"]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (no closures)
        """One step of all matrices that have a gradient."""
        assert closure is None, "no closures"
        for group in self.param_groups:
            for matrices in _alike([matrix for matrix in group["params"] if matrix.grad is not None]):
                self._step(matrices, group["lr"], group["weight_decay"])

    def _step(self, matrices: list[torch.Tensor], rate: float, weight_decay: float) -> None:
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        # m = _MOMENTUM m + (1 - _MOMENTUM) g, and Nesterov's look ahead (1 - _MOMENTUM) g + _MOMENTUM m
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        # One matrix alone stays one: products of a stack are rounded in another order.
        updates = [orthogonal(ahead[0], self.dtype)] if len(ahead) == 1 else orthogonal(torch.stack(ahead), self.dtype)
        # w = (1 - rate weight_decay) w - 0.2 sqrt(max(rows, columns)) rate O: the size of AdamW's steps
        torch._foreach_mul_(matrices, 1 - rate * weight_decay)
        size = rate * (0.2 * math.sqrt(max(matrices[0].shape)))
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.add_(update, alpha=-size)


def _alike(matrices: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Matrices of one shape together on a GPU, which else waits for hundreds of small products to be started."""
    if not matrices or matrices[0].device.type != "cuda" or hasattr(matrices[0], "to_local"):
        return [[matrix] for matrix in matrices]
    groups: dict[torch.Size, list[torch.Tensor]] = {}
    for matrix in matrices:
        groups.setdefault(matrix.shape, []).append(matrix)
    return list(groups.values())


def orthogonal(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """About U V^T of matrices U S V^T `[..., rows, columns]`, in `dtype`: Newton and Schulz's iteration leaves singular
    values between 0.5 and 1.5."""
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.to(dtype)
    x = x.mT if is_tall else x  # the smaller side makes the smaller products
    norm = x.norm() if x.ndim == 2 else x.norm(dim=(-2, -1), keepdim=True)
    x = x / norm.clamp(min=_SMALLEST_NORM)  # no singular value above 1
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(_ITERATIONS):
        # X = a X + (b A + c A A) X with A = X X^T
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
