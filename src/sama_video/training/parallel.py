"""Processes that train together: sharded parameters (FSDP2), sums over all of them, and errors that all hear of.

Started by torchrun, also under SLURM, which sets RANK, WORLD_SIZE and LOCAL_RANK; alone, nothing is set up.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..models.transformer_sama import SamaTransformer3DModel
from ..system import processes
from ..system.errors import UserError
from ..system.precision import Precision, choose_precision
from .config import ParallelConfig, TrainConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Trainable(nn.Module):
    """What the optimizer sees: the transformer, and the text encoder if it trains.

    The text encoder trains without dropout, whose draws would depend on micro-batches and processes.
    """

    def __init__(self, transformer: SamaTransformer3DModel, text_encoder: nn.Module | None):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder

    def train(self, mode: bool = True) -> "Trainable":
        super().train(mode)
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.transformer.blocks]

    @property
    def parts(self) -> list[nn.Module]:
        return [self.transformer, *([self.text_encoder] if self.text_encoder is not None else [])]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """This process among `world_size`.

    Args:
        saving: a group of all processes on the CPU, for checkpoints that are written while training goes on: two
            threads must not talk in one group. None alone.
    """

    rank: int
    world_size: int
    device: torch.device
    config: ParallelConfig
    saving: dist.ProcessGroup | None = None

    @classmethod
    def start(cls, config: ParallelConfig) -> "Parallel":
        """Join the processes that the environment names.

        Raises:
            UserError: for SLURM tasks that do not know of each other, more processes than GPUs, or a number of
                processes that `shard_size` does not divide.
        """
        rank, world_size = processes.rank(), processes.world_size()
        _check_surroundings(config, world_size)
        device = processes.own_device()
        if world_size == 1:
            return cls(rank=0, world_size=1, device=device, config=config)
        timeout = timedelta(minutes=config.timeout_minutes)
        processes.join(device, timeout)
        saving = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))  # all processes are in it
        return cls(rank=rank, world_size=world_size, device=device, config=config, saving=saving)

    def shard(self, model: Trainable, precision: str = "float32") -> None:
        """Spread the parameters: every transformer block is gathered by itself, when it is its turn.

        Blocks are gathered in `precision`, gradients averaged in float32. Embedders, heads and a text encoder that
        trains stay in float32: they are small, and a timestep of 731.4 is 732 in bfloat16.
        """
        if self.world_size == 1:
            return
        size = self.config.shard_size or self.world_size
        mesh = init_device_mesh(
            self.device.type, (self.world_size // size, size), mesh_dim_names=("replicate", "shard")
        )
        mesh = mesh if self.world_size > size else mesh["shard"]
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if precision == "bfloat16" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # autocast decides; the rotary factors and timesteps keep their digits
        )
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        for part in model.parts:
            fully_shard(part, mesh=mesh)
        # It warns of changing an output in place, which nothing here does.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    def check_batch_sizes(self, *sizes: int) -> None:
        """Raises UserError for a batch in which a process would always be without a sample."""
        if min(sizes) < self.world_size:
            raise UserError(
                f"a batch of {min(sizes)} does not reach {self.world_size} processes; batch sizes count all processes "
                "together: raise data.image_batch_size and data.video_batch_size, or start fewer processes"
            )

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def any(self, condition: bool) -> bool:
        """Whether it holds in any process; all of them call it."""
        return bool(self.sum(torch.tensor(float(condition))) > 0)

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order; small things only."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What fails in one process fails in all, by the same type of error: none waits for another that has left. The
        block must not communicate.

        Raises:
            UserError: where nothing failed, with the number and the words of a process where something did; where an
                error was foreseen it is that one, and any other is printed before.
        """
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        if not self.any(failure is not None):
            return
        failures = self.gather(None if failure is None else _in_words(failure))
        if isinstance(failure, UserError):
            raise failure
        if failure is not None:
            logger.error("process %d failed", self.rank, exc_info=failure)
        rank, words = next((rank, words) for rank, words in enumerate(failures) if words is not None)
        raise UserError(f"process {rank} cannot go on: {words}") from failure

    def same(self, value: str, what: str) -> None:
        """Raises UserError in all processes unless they hold the same value."""
        values = self.gather(value)
        other = next((rank for rank, theirs in enumerate(values) if theirs != values[0]), None)
        if other is not None:
            raise UserError(f"{what} of process {other} differ from those of process 0; give all nodes the same files")


def _check_surroundings(config: ParallelConfig, world_size: int) -> None:
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if "WORLD_SIZE" not in os.environ and tasks > 1:
        raise UserError(
            f"SLURM started {tasks} tasks that do not know of each other; start one per node and torchrun in it, as "
            "examples/train_slurm.sh does"
        )
    if config.shard_size and world_size % config.shard_size:
        raise UserError(
            f"parallel.shard_size={config.shard_size} does not divide {world_size} processes; use a divisor, or 0 for "
            "all"
        )


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def forget_gathered(model: nn.Module) -> None:
    """FSDP2 leaves a root's parameters gathered after a forward pass without a backward one: the next would use them,
    whatever the sharded ones have become."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(module: nn.Module) -> nn.Module | None:
    """An ordinary copy of a sharded model, on the CPU of the first process; None in the others. All of them call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(module, options=options)
    if not is_first():
        return None
    kind: Any = type(module).__bases__[1]  # FSDP2 puts its own class before the model's
    with torch.device("meta"):
        copy = kind.from_config(module.config) if hasattr(kind, "from_config") else kind(module.config)
    copy.load_state_dict(state, assign=True)
    if hasattr(copy, "tie_weights"):
        copy.tie_weights()  # UMT5 knows its embedding by two names
    return copy.eval()


def settle_precision(config: TrainConfig, parallel: Parallel) -> TrainConfig:
    """The run with "auto" decided, by the first process for all of them."""
    if config.loop.precision != "auto":
        return config
    chosen: Precision = choose_precision(parallel.device) if parallel.rank == 0 else "float32"
    return config.with_precision(cast(Precision, parallel.gather(chosen)[0]))


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def leave() -> None:
    """At the end of a run. After an error a process just ends: leaving waits for what the others never send."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
