"""Keys and values of the source's tokens, kept from one pass through the blocks for others.

Half of the sequence is the clean source, and a sampler computes it in every step and guidance branch. What the other
tokens need of it is its keys and values in each block's self-attention. A pass writes them into a `SourceMemory`, and
a pass that reads them leaves the source's tokens out: a third of the attention and half of all else is saved.

With `source_attention="self"` the source's tokens see one another alone, carry timestep 0 and read no text: their keys
and values are the same in every step and branch, and reading them is exact. With the released model's full attention
they depend on all of that, and reading those of an earlier step is an approximation.

Shape legend: B batch, N tokens, H heads, D their width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, _get_qkv_projections
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


class RotaryWithMemory(NamedTuple):
    """What a block takes as its rotary factors in a pass that writes or reads a memory.

    Args:
        num_written: of the first tokens, which are the source's; 0 in a pass that reads.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    memory: SourceMemory
    num_written: int


class SourceMemoryAttnProcessor(WanAttnProcessor):
    """Wan's attention; with `RotaryWithMemory` it writes or reads, and without text cross-attention gives nothing."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | RotaryWithMemory | None = None,
    ) -> torch.Tensor:
        if attn.is_cross_attention and encoder_hidden_states is None:
            return torch.zeros_like(hidden_states)
        if not isinstance(rotary_emb, RotaryWithMemory):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        query, key, value = _projections(attn, hidden_states)
        query, key = (rotated(x, rotary_emb.cos, rotary_emb.sin) for x in (query, key))
        memory, num_written = rotary_emb.memory, rotary_emb.num_written
        if num_written:
            memory.write(attn, key, value, num_written)
        else:
            key, value = memory.before(attn, key, value)
        attended = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3).type_as(query)))


def _projections(attn: WanAttention, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    """`[B, N, H D]` -> normalised queries and keys, and values, each `[B, N, H, D]`."""
    query, key, value = _get_qkv_projections(attn, tokens, tokens)
    return (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(query), attn.norm_k(key), value))


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`[B, N, H, D]` by rotary factors `[1, N, 1, D]` that hold every angle twice, as Wan's."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).type_as(x)
