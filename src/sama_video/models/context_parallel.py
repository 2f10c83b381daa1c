"""One sequence over several processes, as DeepSpeed-Ulysses does it (arXiv 2309.14509).

Between the attentions a process holds a part of the tokens; in an attention, all tokens of a part of the heads. Both
are swapped by one exchange of all with all, so a head sees every token, whatever stream it is of.

Shape legend: B batch, N tokens of the whole sequence and what pads it, P processes, H heads, D width.
"""

import torch
import torch.distributed as dist


class Ulysses:
    """The processes that share a sequence.

    Args:
        group: None for all processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def part(self, tokens: torch.Tensor) -> torch.Tensor:
        """This process's of all tokens: `[B, n, ...]` -> `[B, N / P, ...]`, with zeros at the end of the last part."""
        length = -(-tokens.shape[1] // self.size)
        own = tokens[:, self.rank * length : (self.rank + 1) * length]
        padding = own.new_zeros(len(own), length - own.shape[1], *own.shape[2:])
        return torch.cat([own, padding], dim=1)

    def whole(self, part: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """The inverse of `part`, in every process."""
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)[:, :num_tokens]

    def all_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N / P, H, D]`, a part of the tokens -> `[B, N, H / P, D]`, a part of the heads."""
        by_receiver = x.unflatten(2, (self.size, -1)).movedim(2, 0)  # P, B, N / P, H / P, D
        return self._exchanged(by_receiver).movedim(0, 1).flatten(1, 2)

    def all_heads(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `all_tokens`."""
        by_receiver = x.unflatten(1, (self.size, -1)).movedim(1, 0)  # P, B, N / P, H / P, D
        return self._exchanged(by_receiver).movedim(0, 2).flatten(2, 3)

    def _exchanged(self, by_receiver: torch.Tensor) -> torch.Tensor:
        """What each process gets from each."""
        sent = by_receiver.contiguous()
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=self.group)
        return got
