"""Attention of the joined sequence: Wan's, where keys and values may also come from a memory, and tokens be elsewhere.

Shape legend: B batch, N tokens, H heads, D their width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, _get_qkv_projections

from .context_parallel import Ulysses
from .source_memory import SourceMemory


class Joined(NamedTuple):
    """What a block takes in the place of plain rotary factors, where its attention is not Wan's alone.

    Args:
        cos, sin: rotary factors of this process's tokens.
        num_tokens: of the whole sequence.
        memory: of the source's keys and values, if there is one.
        num_written: of the first tokens, which are the source's, into the memory; 0 in a pass that reads it.
        ulysses: the processes that share the sequence, if there are several.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    num_tokens: int
    memory: SourceMemory | None = None
    num_written: int = 0
    ulysses: Ulysses | None = None


class JointAttnProcessor(WanAttnProcessor):
    """Wan's attention; with `Joined` it does what that says, and without text cross-attention gives nothing."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | Joined | None = None,
    ) -> torch.Tensor:
        if attn.is_cross_attention and encoder_hidden_states is None:
            return torch.zeros_like(hidden_states)
        if not isinstance(rotary_emb, Joined):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        query, key, value = _projections(attn, hidden_states)
        query, key = (rotated(x, rotary_emb.cos, rotary_emb.sin) for x in (query, key))
        memory, ulysses = rotary_emb.memory, rotary_emb.ulysses
        if ulysses is not None:
            query, key, value = (ulysses.all_tokens(x) for x in (query, key, value))
            key, value = key[:, : rotary_emb.num_tokens], value[:, : rotary_emb.num_tokens]  # without what pads it
        if memory is not None and rotary_emb.num_written:
            memory.write(attn, key, value, rotary_emb.num_written)
        elif memory is not None:
            key, value = memory.before(attn, key, value)
        attended = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        if ulysses is not None:
            attended = ulysses.all_heads(attended)
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
