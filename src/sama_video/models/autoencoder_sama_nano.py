"""SAMA-Nano's video autoencoder: a linear encoder (principal components of patches) and a learned decoder.

Shape legend: B batch, F frames, H W pixels, f h w latent grid, Z latent channels.

Frames are grouped as Wan's VAE groups them: the first frame alone, then fours, so 4k + 1 frames give k + 1 latent
frames. The first frame fills its group by repetition. `docs/decisions/nano-autoencoder.md` says why the encoder is
linear and what the learned decoder gains over its transpose.
"""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import nn

from .shapes import TEMPORAL_FACTOR, LatentShape, VideoShape

PATCH = (TEMPORAL_FACTOR, 8, 8)
PATCH_VALUES = 3 * math.prod(PATCH)
_PATCHES = {"p": PATCH[0], "q": PATCH[1], "r": PATCH[2]}


def _zeroed(layer: nn.Conv3d) -> nn.Conv3d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _RefineBlock(nn.Module):
    """Residual block: a spatial then a temporal convolution on the latent grid."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.spatial = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.temporal = _zeroed(nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)))
        self.act = nn.SiLU()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.temporal(self.act(self.spatial(self.norm(hidden_states))))


class AutoencoderSamaNano(ModelMixin, ConfigMixin):
    """Patch autoencoder with the interface of [`~diffusers.AutoencoderKLWan`] (`encode`, `decode`, `config`).

    Args:
        z_dim: latent channels.
        decoder_width: channels of the refining convolutions.
        decoder_layers: their number; the transpose of the linear encoder is always part of the decoder.
        latents_mean, latents_std: per channel, `z = (latent - mean) / std` is what the transformer sees.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        decoder_width: int = 192,
        decoder_layers: int = 3,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 8,
    ):
        super().__init__()
        if (scale_factor_temporal, scale_factor_spatial) != (PATCH[0], PATCH[1]):
            raise ValueError(f"the patch is fixed at {PATCH}; scale factors must be {PATCH[0]} and {PATCH[1]}")
        self.register_to_config(latents_mean=latents_mean or [0.0] * z_dim, latents_std=latents_std or [1.0] * z_dim)
        self.components = nn.Parameter(torch.zeros(z_dim, PATCH_VALUES), requires_grad=False)
        self.patch_mean = nn.Parameter(torch.zeros(PATCH_VALUES), requires_grad=False)
        self.refine_in = nn.Conv3d(z_dim, decoder_width, (1, 3, 3), padding=(0, 1, 1))
        self.refine = nn.ModuleList(_RefineBlock(decoder_width) for _ in range(decoder_layers))
        self.refine_out = _zeroed(nn.Conv3d(decoder_width, PATCH_VALUES, 1))

    def patchify(self, video: torch.Tensor) -> torch.Tensor:
        """`[B, 3, F, H, W]` with F = 4k + 1 and sides that divide by 8 -> `[B, k + 1, h, w, 768]`."""
        _, _, frames, height, width = video.shape
        LatentShape.from_video(VideoShape(num_frames=frames, height=height, width=width), PATCH[1])
        video = torch.cat([video[:, :, :1].expand(-1, -1, PATCH[0] - 1, -1, -1), video], dim=2)
        return rearrange(video, "b c (f p) (h q) (w r) -> b f h w (c p q r)", **_PATCHES)

    def unpatchify(self, patches: torch.Tensor) -> torch.Tensor:
        """Inverse of [`patchify`]."""
        video = rearrange(patches, "b f h w (c p q r) -> b c (f p) (h q) (w r)", c=3, **_PATCHES)
        return video[:, :, PATCH[0] - 1 :]

    @apply_forward_hook
    def encode(self, video: torch.Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """`[B, 3, F, H, W]` in [-1, 1] -> a deterministic distribution over latents `[B, Z, f, h, w]`."""
        latents = (self.patchify(video) - self.patch_mean) @ self.components.T
        latents = rearrange(latents, "b f h w z -> b z f h w")
        posterior = DiagonalGaussianDistribution(
            torch.cat([latents, torch.full_like(latents, -30.0)], dim=1), deterministic=True
        )
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode_unclamped(self, latents: torch.Tensor) -> torch.Tensor:
        """`[B, Z, f, h, w]` -> `[B, 3, F, H, W]` about [-1, 1]."""
        linear = rearrange(latents, "b z f h w -> b f h w z") @ self.components + self.patch_mean
        std = torch.tensor(self.config.latents_std, device=latents.device, dtype=latents.dtype)
        hidden_states = self.refine_in(latents / std.view(1, -1, 1, 1, 1))
        for block in self.refine:
            hidden_states = block(hidden_states)
        refinement = rearrange(self.refine_out(hidden_states), "b v f h w -> b f h w v")
        return self.unpatchify(linear + refinement)

    @apply_forward_hook
    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple:
        """`[B, Z, f, h, w]` -> `[B, 3, F, H, W]` clamped to [-1, 1]."""
        video = self.decode_unclamped(latents).clamp(-1.0, 1.0)
        return DecoderOutput(sample=video) if return_dict else (video,)
