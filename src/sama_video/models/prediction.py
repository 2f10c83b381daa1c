"""How the transformer's output becomes a velocity around the source, `prediction="around_source"`.

Shape legend: B batch, C latent channels, F H W latent grid, N tokens, D width. Time convention: see
`transformer_sama.py`.

Most of an edited clip is its source. The target is modelled as `x_0 = z_s + e`, `e ~ N(0, s^2)` per channel: Karras et
al.'s preconditioning (arXiv 2206.00364) with a mean, for this flow. See docs/decisions/around-source.md.
"""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class AroundSource:
    """A target whose latents are those of its source, changed here and there.

    Args:
        mean: `z_s` `[B, C, F, H, W]`, or zeros where there is no source on the target's grid.
        std: `s` `[1, C, 1, 1, 1]`.
        sigma: `[B, 1, 1, 1, 1]`.
    """

    mean: torch.Tensor
    std: torch.Tensor
    sigma: torch.Tensor

    @property
    def spread(self) -> torch.Tensor:
        """`sqrt(D)`, `D = (1 - sigma)^2 s^2 + sigma^2`: of `x_sigma` around its mean."""
        return torch.hypot((1 - self.sigma) * self.std, self.sigma)

    @property
    def unit_mean(self) -> torch.Tensor:
        """`z_s / s`: in the units of the network's output."""
        return self.mean / self.std

    def residual(self, x_sigma: torch.Tensor) -> torch.Tensor:
        """`r = x_sigma - (1 - sigma) z_s`."""
        return x_sigma - (1 - self.sigma) * self.mean

    def network_input(self, x_sigma: torch.Tensor) -> torch.Tensor:
        """`r / sqrt(D)`, of unit spread at every sigma."""
        return self.residual(x_sigma) / self.spread

    def velocity(self, output: torch.Tensor, x_sigma: torch.Tensor) -> torch.Tensor:
        """`r (sigma - (1 - sigma) s^2) / D - z_s + F s / sqrt(D)` of the network's output F: the best linear guess, and
        what is left in units of its spread."""
        gain = (self.sigma - (1 - self.sigma) * self.std.square()) / self.spread.square()
        return gain * self.residual(x_sigma) - self.mean + self.std / self.spread * output


class GatedSource(nn.Module):
    """`U (V z_s * G h)`: the source's values themselves, weighed by what the network makes of them.

    Blocks read normalised tokens, which tell a patch's pattern well and its strength badly. A look or a new colour asks
    for exact multiples of the source.
    """

    def __init__(self, num_values: int, width: int):
        super().__init__()
        self.read = nn.Linear(num_values, width, bias=False)
        self.gate = nn.Linear(width, width)
        self.write = nn.Linear(width, num_values, bias=False)

    def forward(self, source: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[B, N, num_values]` from the source's patches, of that shape, and the tokens `[B, N, D]` of their places."""
        return self.write(self.read(source) * self.gate(hidden_states))
