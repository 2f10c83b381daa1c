"""Attention and its backward pass as the nano trains on a CPU, by plain products against torch's own.

In bfloat16 where this machine multiplies it fast, else in float32, where the trainer leaves attention to torch.
"""

import torch
import torch.nn.functional as F
from common import compare, report, setting

from sama_video.system.precision import choose_precision
from sama_video.training.attention import plain_attention

# Samples, heads, queries, keys: pictures of 96x96 and clips of 17 frames of 128x128, of themselves and of the text.
SHAPES = ((32, 4, 89, 89), (32, 4, 89, 24), (6, 4, 705, 705), (6, 4, 705, 24))
HEAD_DIM = 48


def main() -> None:
    precision = choose_precision("cpu")
    print(f"{setting()}, {torch.get_num_threads()} threads, {precision}")
    for size, heads, queries, keys in SHAPES:
        query, key, value = (
            torch.randn(size, tokens, heads, HEAD_DIM, dtype=getattr(torch, precision)).transpose(1, 2).requires_grad_()
            for tokens in (queries, keys, keys)
        )

        def both_passes(attention, tensors=(query, key, value)) -> None:
            attended = attention(*tensors)
            attended.backward(torch.ones_like(attended))

        seconds = compare(lambda: both_passes(plain_attention), lambda: both_passes(F.scaled_dot_product_attention))
        report(f"{size} samples, {queries} queries, {keys} keys", *seconds)


if __name__ == "__main__":
    main()
