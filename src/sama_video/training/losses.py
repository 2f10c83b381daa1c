"""The flow-matching objective (paper Eq. 1) with one sigma per sample.

Time convention: see `models/transformer_sama.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..models.transformer_sama import SamaTransformer3DModel


@dataclass(frozen=True)
class StepOutput:
    """Per-sample losses of one step.

    Args:
        loss: `[B]`, the flow-matching loss.
        sigma: `[B]`, the noise level it was measured at.
    """

    loss: torch.Tensor
    sigma: torch.Tensor


def sample_sigmas(batch_size: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Logit-normal sigmas `[B]` in (0, 1), moved towards 1 by `shift` as the sampler moves its own."""
    sigma = torch.randn(batch_size, generator=generator).sigmoid()
    return shift * sigma / (1 + (shift - 1) * sigma)


def flow_matching_step(
    transformer: SamaTransformer3DModel,
    target_latents: torch.Tensor,
    source_latents: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
) -> StepOutput:
    """One forward pass of the objective.

    Args:
        target_latents, source_latents, noise: `[B, C, F, H, W]`.
        encoder_hidden_states: `[B, L, D]`.
        sigma: `[B]`.
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    x_sigma = (1 - level) * target_latents + level * noise
    velocity = transformer(
        x_sigma,
        timestep=1000.0 * sigma,
        encoder_hidden_states=encoder_hidden_states,
        source_hidden_states=source_latents,
    ).sample
    error = F.mse_loss(velocity.float(), noise - target_latents, reduction="none")
    return StepOutput(loss=error.mean(dim=(1, 2, 3, 4)), sigma=sigma)
