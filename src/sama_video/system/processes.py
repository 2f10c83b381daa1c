"""Several processes that work as one, as torchrun starts them, also under SLURM: the environment says each its place.

Alone, there is one of rank 0, and nothing is set up. torch is imported when processes join.
"""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch


def rank() -> int:
    """From 0, among all processes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> "torch.device":
    """The GPU of this process, the CPU where there is none.

    Raises:
        UserError: for more processes on this machine than GPUs.
    """
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU; start at most {torch.cuda.device_count()} "
            "(torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def join(device: "torch.device", timeout: timedelta) -> None:
    """Let all processes talk to each other; the first call counts."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timeout)
