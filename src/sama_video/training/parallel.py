"""Processes that train together: sharded parameters (FSDP2), and sums over all of them.

Started by torchrun or SLURM, which set RANK, WORLD_SIZE and LOCAL_RANK; alone, nothing is set up.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ..models.transformer_sama import SamaTransformer3DModel
from .config import ParallelConfig


class Trainable(nn.Module):
    """What the optimizer sees: the transformer, and the text encoder if it trains."""

    def __init__(self, transformer: SamaTransformer3DModel, text_encoder: nn.Module | None):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.transformer.blocks]

    @property
    def parts(self) -> list[nn.Module]:
        return [self.transformer, *([self.text_encoder] if self.text_encoder is not None else [])]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """This process among `world_size`."""

    rank: int
    world_size: int
    device: torch.device
    config: ParallelConfig

    @classmethod
    def start(cls, config: ParallelConfig) -> "Parallel":
        """Join the processes that the environment names."""
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank=rank, world_size=world_size, device=device, config=config)

    def shard(self, model: Trainable) -> None:
        """Spread the parameters: every transformer block is gathered by itself, when it is its turn."""
        if self.world_size == 1:
            return
        size = self.config.shard_size or self.world_size
        shape, names = ((self.world_size // size, size), ("replicate", "shard"))
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        mesh = mesh if shape[0] > 1 else mesh["shard"]
        for part in (*model.blocks, *model.parts):
            fully_shard(part, mesh=mesh)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def any(self, condition: bool) -> bool:
        """Whether it holds in any process; all of them call it."""
        return bool(self.sum(torch.tensor(float(condition))) > 0)
