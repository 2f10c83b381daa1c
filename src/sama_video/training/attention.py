"""Attention by plain products, where torch's own takes longer over it.

On a processor that multiplies bfloat16 fast, the backward pass of `torch.nn.functional.scaled_dot_product_attention`
takes two to four times as long as these products (`benchmarks/bench_attention.py`). They keep what a fused kernel
computes again, the attention of every pair of tokens, so long sequences are left to the latter.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_MOST_PAIRS = 1024 * 1024  # of tokens: 2 MiB a head and sample


class PlainAttention(TorchFunctionMode):
    """Inside the block, attention without masks is computed by `plain_attention`, whoever calls for it."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not _is_plain(*args, **kwargs):
            return func(*args, **kwargs)
        return plain_attention(*args[:3], **{name: kwargs[name] for name in ("query", "key", "value")[len(args) :]})


def _is_plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, **others: Any
) -> bool:
    """Whether nothing but three tensors counts, and these are short."""
    del value
    return attn_mask is None and not any(others.values()) and query.shape[-2] * key.shape[-2] <= _MOST_PAIRS


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`softmax(Q K^T / sqrt(d)) V` of `[..., tokens, d]`."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return scores.softmax(dim=-1) @ value
