"""Optimizers and their learning rate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..system.errors import UserError
from ..system.precision import Precision
from .config import OptimizerConfig
from .muon import Muon


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Of optimizer step `step` (from 0): a rise over the warm-up, then a straight line to the final rate."""
    progress = step / max(num_steps - 1, 1)
    rate = config.learning_rate + progress * (config.final_learning_rate - config.learning_rate)
    return rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))


def check_optimizer(config: OptimizerConfig, device: torch.device, world_size: int) -> None:
    """Raises UserError for one that cannot be used here, by its real step with a few numbers."""
    if config.kind != "adamw8bit":
        return
    if world_size > 1:
        raise UserError(
            "optimizer.kind=adamw8bit is for one process, since its moments cannot be sharded; start one, or use "
            "optimizer.kind=adamw"
        )
    number = nn.Parameter(torch.zeros(4096, device=device))
    number.grad = torch.ones_like(number)
    try:
        _adamw8bit([number], config).step()
    except ImportError as error:
        raise UserError(
            "optimizer.kind=adamw8bit needs bitsandbytes: pip install 'sama-video[adamw8bit]', or use "
            "optimizer.kind=adamw"
        ) from error
    except Exception as error:  # whatever its library lacks for a device
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"bitsandbytes does not work on {device.type} here ({reason}); install a version that does, or use "
            "optimizer.kind=adamw"
        ) from error


def _adamw8bit(parameters: Sequence[nn.Parameter], config: OptimizerConfig) -> Any:
    """With its moments of zero already there. Tensors of less than 4096 numbers have them in float32."""
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports] (an extra)

    adamw = AdamW8bit(parameters, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)
    for number, parameter in enumerate(parameters):
        adamw.init_state(adamw.param_groups[0], parameter, 0, number)
    return adamw


class Optimizer:
    """AdamW on everything, or Muon on the transformer's block matrices beside it; one learning rate drives both.

    Both work on sharded parameters as they are. Muon's orthogonalisation then talks in every of its five iterations,
    which a small model can afford.

    Args:
        model: with the trainable parameters; those of `blocks` with two dimensions are Muon's.
        precision: of Muon's iterations.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, precision: Precision = "float32"):
        self.config = config
        self.parts: list[torch.optim.Optimizer]
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = {
            name: p
            for name, p in self.parameters.items()
            if config.kind == "muon" and p.ndim == 2 and ".blocks." in name
        }
        rest = [p for name, p in self.parameters.items() if name not in matrices]
        if config.kind == "adamw8bit":
            self.parts, self.factors = [_adamw8bit(rest, config)], [1.0]
            return
        # By itself torch takes one parameter after the other on a CPU: four times as long.
        adamw = torch.optim.AdamW(rest, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True)
        self.parts = [adamw]
        self.factors = [1.0]
        if matrices:
            muon = Muon(matrices.values(), weight_decay=config.weight_decay, dtype=getattr(torch, precision))
            self.parts, self.factors = [muon, adamw], [1.0, config.adamw_share]
        self._make_state()

    def _make_state(self) -> None:
        """AdamW's moments of zero, which torch makes in its first step: a checkpoint has the same names at any step."""
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        self.parts[-1].step()  # at a rate of zero
        for values in self.state().values():
            for value in values.values():
                value.zero_()
        self.clear()

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Moments and counters by parameter, the very tensors that the next step changes; sharded as the parameter."""
        everything = {parameter: values for part in self.parts for parameter, values in part.state.items()}
        return {name: everything[parameter] for name, parameter in self.parameters.items()}

    def clear(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, rate: float) -> float:
        """Clip, step, clear. Returns the gradient's norm over all processes before clipping; above `stop_norm`, or if
        it is not finite, the weights stay as they are."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore
        if norm <= self.config.stop_norm:  # false for NaN too
            for part, factor in zip(self.parts, self.factors, strict=True):
                for group in part.param_groups:
                    group["lr"] = rate * factor
                part.step()
        self.clear()
        return float(norm)
