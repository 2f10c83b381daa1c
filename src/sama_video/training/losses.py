"""The objective: flow matching on latents and semantic tokens (paper Eqs. 1 and 3 to 5), one sigma per sample.

Shape legend: B batch, C latent channels, F H W latent grid, S semantic tokens, D their width. Time convention: see
`models/transformer_sama.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..models.latents import noised
from ..models.transformer_sama import SamaTransformer3DModel


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """Per-sample losses of one forward pass.

    Args:
        loss: `[B]`, `flow_loss + semantic_weight * semantic_loss` (Eq. 4).
        flow_loss: `[B]`, squared error of the latents' velocity (Eq. 1), averaged over a sample.
        semantic_loss: `[B]`, L1 error on the semantic tokens (Eq. 3), averaged over a sample; None without the stream.
        sigma: `[B]`, the noise level that they were measured at.
    """

    loss: torch.Tensor
    flow_loss: torch.Tensor
    semantic_loss: torch.Tensor | None
    sigma: torch.Tensor


def sample_sigmas(
    batch_size: int, shift: float, generator: torch.Generator, sampling: str = "logit_normal"
) -> torch.Tensor:
    """Sigmas `[B]` from 0 to 1, "logit_normal" or "uniform", moved towards 1 by `shift` as a sampler's are."""
    if sampling == "uniform":
        sigma = torch.rand(batch_size, generator=generator)
    else:
        sigma = torch.randn(batch_size, generator=generator).sigmoid()
    return shift * sigma / (1 + (shift - 1) * sigma)


def flow_matching_step(
    transformer: SamaTransformer3DModel,
    *,
    target: torch.Tensor,
    source: torch.Tensor | None,
    text: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
    semantic: torch.Tensor | None = None,
    semantic_noise: torch.Tensor | None = None,
    semantic_weight: float = 0.1,
    semantic_target: str = "velocity",
) -> StepOutput:
    """One forward pass of the objective; both streams carry noise of the same sigma (section 3.2).

    Args:
        target, noise: `[B, C, F, H, W]`.
        source: `[B, C, F', H, W]`, None for text to video.
        text: `[B, L, D]`.
        sigma: `[B]`.
        semantic, semantic_noise: `[B, S, D]`, None without Semantic Anchoring.
        semantic_target: "velocity": the head predicts `noise - s`; "clean": it predicts `s`.
    """
    semantic_sigma = semantic_wanted = None
    if semantic is not None:
        assert semantic_noise is not None
        semantic_sigma = noised(semantic, semantic_noise, sigma)
        semantic_wanted = semantic_noise - semantic if semantic_target == "velocity" else semantic
    return velocity_losses(
        transformer,
        latents=noised(target, noise, sigma),
        semantic=semantic_sigma,
        sigma=sigma,
        source=source,
        text=text,
        velocity=noise - target,
        semantic_wanted=semantic_wanted,
        semantic_weight=semantic_weight,
    )


def velocity_losses(
    transformer: SamaTransformer3DModel,
    *,
    latents: torch.Tensor,
    semantic: torch.Tensor | None,
    sigma: torch.Tensor,
    source: torch.Tensor | None,
    text: torch.Tensor,
    velocity: torch.Tensor,
    semantic_wanted: torch.Tensor | None,
    semantic_weight: float,
) -> StepOutput:
    """One forward pass on noisy latents and semantic tokens, against the velocity and what the head should say."""
    output = transformer(
        latents,
        timestep=1000.0 * sigma,
        encoder_hidden_states=text,
        source_hidden_states=source,
        semantic_hidden_states=semantic,
    )
    flow_loss = F.mse_loss(output.sample.float(), velocity, reduction="none").mean(dim=(1, 2, 3, 4))
    if semantic_wanted is None:
        return StepOutput(loss=flow_loss, flow_loss=flow_loss, semantic_loss=None, sigma=sigma)
    semantic_loss = F.l1_loss(output.semantic.float(), semantic_wanted, reduction="none").mean(dim=(1, 2))
    return StepOutput(
        loss=flow_loss + semantic_weight * semantic_loss,
        flow_loss=flow_loss,
        semantic_loss=semantic_loss,
        sigma=sigma,
    )
