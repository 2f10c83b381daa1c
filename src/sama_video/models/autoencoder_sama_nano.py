"""SAMA-Nano's video autoencoder: a linear encoder (principal components of patches) and a learned decoder, which may
also see the source of an edit.

Shape legend: B batch, F frames, H W pixels, f h w latent grid, Z latent channels, V the 768 values of a patch, P its
256 pixels, D width.

Frames are grouped as Wan's VAE groups them: the first frame alone, then fours, so 4k + 1 frames give k + 1 latent
frames. The first frame fills its group by repetition. `docs/decisions/nano-autoencoder.md` says why the encoder is
linear, what the learned decoder gains over its transpose, and what it does with a source.
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
PATCH_PIXELS = math.prod(PATCH)
PATCH_VALUES = 3 * PATCH_PIXELS
# Mean squares of a pixel's change in [-1, 1]: what no one sees, and what is as likely an edit as a sampler's error.
_UNSEEN_CHANGE, _SEEN_CHANGE = 1e-5, 1e-3
_DETAIL_SCALE = 5.0  # of the source's detail as the convolutions see it, to be about 1
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


def _pointwise(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 1)


class _SourceBranch(nn.Module):
    """What an edited clip takes from its source: pixels where nothing changed, fine detail where colours did.

    Untrained it copies the pixels where the latents hardly differ and leaves the others as they were decoded.
    """

    def __init__(self, z_dim: int, decoder_width: int, width: int, num_layers: int):
        super().__init__()
        self.enter = _pointwise(decoder_width + 2 * z_dim + PATCH_VALUES + PATCH_PIXELS, width)
        self.blocks = nn.ModuleList(_RefineBlock(width) for _ in range(num_layers))
        self.drawing = _zeroed(_pointwise(width, PATCH_VALUES))
        self.colours = _zeroed(_pointwise(width, 9))
        self.kept = _zeroed(_pointwise(width, PATCH_PIXELS))

    def forward(
        self,
        decoded: torch.Tensor,
        source: torch.Tensor,
        detail: torch.Tensor,
        change: torch.Tensor,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """All `[B, V, f, h, w]`, and so is the result.

        Args:
            decoded: the clip as it is decoded without a source.
            source: its pixels; `detail` is what of them the latents do not hold.
            change: what the latents say of the edit, in pixels.
            seen: `[B, decoder_width + 2 Z, f, h, w]`, hidden states of the decoder and latents.
        """
        # The logarithm of the change of a pixel, about -1 to 1 from what a sampler leaves to what an edit makes.
        change = rearrange(change, "b (c n) f h w -> b c n f h w", c=3).square().mean(dim=1)
        change = (change + _UNSEEN_CHANGE).log() - math.log(_SEEN_CHANGE)
        hidden_states = self.enter(torch.cat([seen, _DETAIL_SCALE * detail, 0.3 * change], dim=1))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        # detail of the edited clip = colours (3 x 3) * detail of the source
        colours = rearrange(self.colours(hidden_states), "b (d c) f h w -> b d c f h w", c=3)
        detail = rearrange(detail, "b (c n) f h w -> b c n f h w", c=3)
        detail = torch.einsum("bdcfhw,bcnfhw->bdnfhw", colours, detail)
        drawn = decoded + self.drawing(hidden_states) + rearrange(detail, "b d n f h w -> b (d n) f h w")
        # The source's pixels where they are kept, else what was drawn.
        kept = torch.sigmoid(self.kept(hidden_states) - change).repeat(1, 3, 1, 1, 1)
        return drawn + kept * (source - drawn)


class AutoencoderSamaNano(ModelMixin, ConfigMixin):
    """Patch autoencoder with the interface of [`~diffusers.AutoencoderKLWan`] (`encode`, `decode`, `config`).

    Args:
        z_dim: latent channels.
        decoder_width: channels of the refining convolutions.
        decoder_layers: their number; the transpose of the linear encoder is always part of the decoder.
        source_width: channels of the convolutions that look at the source of an edit; 0 for a decoder that takes none.
        source_layers: their number.
        latents_mean, latents_std: per channel, `z = (latent - mean) / std` is what the transformer sees.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        decoder_width: int = 192,
        decoder_layers: int = 3,
        source_width: int = 0,
        source_layers: int = 3,
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
        self.source_branch = (
            _SourceBranch(z_dim, decoder_width, source_width, source_layers) if source_width > 0 else None
        )

    @property
    def takes_source(self) -> bool:
        """Whether `decode` can be given the source of an edit."""
        return self.config.source_width > 0

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

    def linear(self, latents: torch.Tensor) -> torch.Tensor:
        """The transposed encoder: `[B, Z, f, h, w]` -> patches `[B, f, h, w, V]`."""
        return rearrange(latents, "b z f h w -> b f h w z") @ self.components + self.patch_mean

    def _std(self, like: torch.Tensor) -> torch.Tensor:
        std = torch.tensor(self.config.latents_std, device=like.device, dtype=like.dtype)
        return std.view(1, -1, 1, 1, 1)

    def _decode_alone(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches `[B, f, h, w, V]` without a source, and the hidden states `[B, D, f, h, w]` they come from."""
        hidden_states = self.refine_in(latents / self._std(latents))
        for block in self.refine:
            hidden_states = block(hidden_states)
        refinement = rearrange(self.refine_out(hidden_states), "b v f h w -> b f h w v")
        return self.linear(latents) + refinement, hidden_states

    def _decode_beside(
        self, decoded: torch.Tensor, hidden_states: torch.Tensor, latents: torch.Tensor, source: torch.Tensor
    ) -> torch.Tensor:
        """What `_decode_alone` gave -> patches `[B, f, h, w, V]` with the source `[B, 3, F, H, W]`."""
        if self.source_branch is None:
            raise ValueError("this decoder takes no source (`source_width` is 0): leave `source` out")
        patches = self.patchify(source.to(latents.dtype))
        if patches.shape != decoded.shape:
            expected = tuple(self.unpatchify(decoded).shape)
            raise ValueError(f"the source must have the shape of the clip, {expected}, got {tuple(source.shape)}")
        source_latents = rearrange((patches - self.patch_mean) @ self.components.T, "b f h w z -> b z f h w")
        detail = patches - self.linear(source_latents)
        change = self.linear(latents - source_latents) - self.patch_mean
        # Each half learns from its own errors: how a clip is decoded without a source is not the branch's to change.
        parts = (rearrange(part, "b f h w v -> b v f h w") for part in (decoded.detach(), patches, detail, change))
        std = self._std(latents)
        seen = torch.cat([hidden_states.detach(), latents / std, (latents - source_latents) / std], dim=1)
        return rearrange(self.source_branch(*parts, seen), "b v f h w -> b f h w v")

    def decode_both(self, latents: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The clip without and with its source, from one pass: what training compares. Shapes as in `decode`."""
        decoded, hidden_states = self._decode_alone(latents)
        return self.unpatchify(decoded), self.unpatchify(self._decode_beside(decoded, hidden_states, latents, source))

    def decode_unclamped(self, latents: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        """As `decode`, about [-1, 1]."""
        decoded, hidden_states = self._decode_alone(latents)
        if source is not None:
            decoded = self._decode_beside(decoded, hidden_states, latents, source)
        return self.unpatchify(decoded)

    @apply_forward_hook
    def decode(
        self, latents: torch.Tensor, return_dict: bool = True, source: torch.Tensor | None = None
    ) -> DecoderOutput | tuple:
        """`[B, Z, f, h, w]` -> `[B, 3, F, H, W]` clamped to [-1, 1].

        Args:
            source: `[B, 3, F, H, W]` in [-1, 1], what was edited; None decodes the latents alone.

        Raises:
            ValueError: for a source of another shape, or one that this decoder does not take.
        """
        video = self.decode_unclamped(latents, source).clamp(-1.0, 1.0)
        return DecoderOutput(sample=video) if return_dict else (video,)
