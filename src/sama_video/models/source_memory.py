"""Keys and values of the source's tokens, kept from one pass through the blocks for others.

Half of the sequence is the clean source, and a sampler computes it in every step and guidance branch. What the other
tokens need of it is its keys and values in each block's self-attention. A pass writes them into a `SourceMemory`, and
a pass that reads them leaves the source's tokens out: a third of the attention and half of all else is saved.

With `source_attention="self"` the source's tokens see one another alone, carry timestep 0 and read no text: their keys
and values are the same in every step and branch, and reading them is exact. With the released model's full attention
they depend on all of that, and reading those of an earlier step is an approximation.

Shape legend: B batch, N tokens, H heads, D their width.
"""

import torch
from torch import nn


class SourceMemory:
    """Empty until a pass has written it."""

    def __init__(self) -> None:
        self._pairs: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def is_empty(self) -> bool:
        return not self._pairs

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for pair in self._pairs.values() for part in pair)

    def write(self, attention: nn.Module, key: torch.Tensor, value: torch.Tensor, num_tokens: int) -> None:
        """Of the first `num_tokens`, which are the source's; `[B, N, H, D]`, rotated."""
        if num_tokens < key.shape[1]:  # a view would keep the others, too
            key, value = key[:, :num_tokens].clone(), value[:, :num_tokens].clone()
        self._pairs[attention] = (key, value)

    def before(self, attention: nn.Module, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the source and then the given; one that was written for a batch of one serves any."""
        kept = (part.expand(len(key), -1, -1, -1) for part in self._pairs[attention])
        first_key, first_value = kept
        return torch.cat([first_key, key], dim=1), torch.cat([first_value, value], dim=1)


class SourceMemories:
    """Which memory each forward pass of a sampling uses.

    Args:
        shared: the one of a model with `source_attention="self"`, for all steps and branches; None for another.
        refresh: every how many steps the others are written; 1 for none.
    """

    def __init__(self, *, shared: SourceMemory | None = None, refresh: int = 1):
        self._shared, self._refresh = shared, refresh
        self._by_branch: dict[str, SourceMemory] = {}

    def begin_step(self, index: int) -> None:
        if index % self._refresh == 0:
            self._by_branch.clear()

    def of(self, branch: str) -> SourceMemory | None:
        if self._shared is not None or self._refresh == 1:
            return self._shared
        return self._by_branch.setdefault(branch, SourceMemory())
