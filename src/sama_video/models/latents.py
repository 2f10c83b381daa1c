"""Video pixels to normalised latents and back, whole or in tiles.

Shape legend: B batch, F frames, H W pixels, Z latent channels, f h w latent grid. Pixels are in [-1, 1]. Normalised
latents are `(mean of the posterior - latents_mean) / latents_std`: what the transformer sees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from einops import rearrange

from .autoencoder_sama_nano import AutoencoderSamaNano

VideoAutoencoder = AutoencoderKLWan | AutoencoderSamaNano


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The official release's tiles, in latent units (height, width).

    Overlapping tiles are averaged under weights that fall off linearly, and the weight of a pixel is the MINIMUM of
    its vertical and horizontal ramp. diffusers' own VAE tiling blends in another way and gives other pictures.
    """

    size: tuple[int, int] = (30, 52)
    stride: tuple[int, int] = (15, 26)

    def __post_init__(self) -> None:
        if not all(0 < stride <= size for size, stride in zip(self.size, self.stride, strict=True)):
            raise ValueError(f"a tile's stride must be positive and at most its size, got {self}")


def video_to_model_range(frames: torch.Tensor) -> torch.Tensor:
    """uint8 `[..., F, H, W, 3]` -> float32 `[B, 3, F, H, W]` in [-1, 1], rounded as the release does."""
    clips = frames if frames.ndim == 5 else frames[None]
    return rearrange(clips, "b f h w c -> b c f h w").float() * (2 / 255) - 1


def video_to_pixels(video: torch.Tensor) -> torch.Tensor:
    """The way back: `[B, 3, F, H, W]` in [-1, 1] -> uint8 `[B, F, H, W, 3]`."""
    return rearrange(((video + 1) * 127.5).round().byte(), "b c f h w -> b f h w c")


def _statistics(vae: VideoAutoencoder, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor(vae.config.latents_mean).to(like).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).to(like).view(1, -1, 1, 1, 1)
    return mean, std


def encode_video(vae: VideoAutoencoder, video: torch.Tensor, tiling: Tiling | None = None) -> torch.Tensor:
    """`[B, 3, F, H, W]` -> normalised latents `[B, Z, f, h, w]`, deterministic."""

    def encode(tile: torch.Tensor) -> torch.Tensor:
        return vae.encode(tile.to(vae.dtype)).latent_dist.mode()

    if tiling is None:
        latents = encode(video)
    else:
        factor = vae.config.scale_factor_spatial
        grid = (video.shape[-2] // factor, video.shape[-1] // factor)
        latents = _blend(lambda area: encode(area.cut(video, factor)), tiling, grid, scale=1)
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def takes_source(vae: VideoAutoencoder) -> bool:
    """Whether its decoder sees the source of an edit: Wan's does not, the nano's says so itself."""
    return isinstance(vae, AutoencoderSamaNano) and vae.takes_source


def decode_latents(
    vae: VideoAutoencoder, latents: torch.Tensor, tiling: Tiling | None = None, source: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalised latents `[B, Z, f, h, w]` -> video `[B, 3, F, H, W]` clamped to [-1, 1].

    Args:
        source: `[B, 3, F, H, W]` or `[1, 3, F, H, W]` in [-1, 1], what was edited. A decoder that takes none does
            without.
    """
    mean, std = _statistics(vae, latents)
    latents = (latents * std + mean).to(vae.dtype)
    if source is not None:
        source = source.to(latents).expand(len(latents), -1, -1, -1, -1) if takes_source(vae) else None
    if tiling is None:
        known = {} if source is None else {"source": source}
        return vae.decode(latents, return_dict=False, **known)[0]

    factor = vae.config.scale_factor_spatial

    def decode(area: "_Area") -> torch.Tensor:
        return _decode_unclamped(vae, area.cut(latents), None if source is None else area.cut(source, factor))

    grid = (latents.shape[-2], latents.shape[-1])
    return _blend(decode, tiling, grid, scale=factor).clamp(-1.0, 1.0)


def _decode_unclamped(vae: VideoAutoencoder, latents: torch.Tensor, source: torch.Tensor | None) -> torch.Tensor:
    """The decoder without the final clamp: tiles must be blended before they are clamped.

    diffusers offers none for Wan's VAE, so this walks its decoder frame by frame as `AutoencoderKLWan.decode` does.
    """
    if hasattr(vae, "_hf_hook") and hasattr(vae._hf_hook, "pre_forward"):
        vae._hf_hook.pre_forward(vae)  # offloaded: what `decode` itself would do
    if isinstance(vae, AutoencoderSamaNano):
        return vae.decode_unclamped(latents, source)
    vae.clear_cache()
    hidden_states = vae.post_quant_conv(latents)
    frames = []
    for index in range(latents.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(
                hidden_states[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )
        )
    vae.clear_cache()
    video = torch.cat(frames, dim=2)
    return video if vae.config.patch_size is None else unpatchify(video, patch_size=vae.config.patch_size)


def _spans(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Starts and stops of tiles; none begins where the one before already reaches the end."""
    return [(a, min(a + size, length)) for a in range(0, length, stride) if a == 0 or a - stride + size < length]


def _ramp(length: int, overlap: int, fades_in: bool, fades_out: bool) -> torch.Tensor:
    weight = torch.ones(length)
    slope = (torch.arange(overlap) + 1) / max(overlap, 1)
    if fades_in:
        weight[:overlap] = slope[:length]
    if fades_out and overlap:
        weight[-overlap:] = slope.flip(0)[-length:]
    return weight


@dataclass(frozen=True)
class _Area:
    """Of the latent grid: rows `top` to `bottom`, columns `left` to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, tensor: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """This area of `[.., scale * h, scale * w]`."""
        rows = slice(self.top * scale, self.bottom * scale)
        return tensor[..., rows, self.left * scale : self.right * scale]


def _blend(
    transform: Callable[[_Area], torch.Tensor], tiling: Tiling, grid: tuple[int, int], scale: int
) -> torch.Tensor:
    """Transform area by area; `grid` is the size in latent units, `scale` the results' pixels per unit."""
    total = weight = None
    (tile_h, tile_w), (stride_h, stride_w) = tiling.size, tiling.stride
    for top, bottom in _spans(grid[0], tile_h, stride_h):
        for left, right in _spans(grid[1], tile_w, stride_w):
            area = _Area(top, bottom, left, right)
            tile = transform(area)
            if total is None:
                total = tile.new_zeros(*tile.shape[:-2], grid[0] * scale, grid[1] * scale)
                weight = total.new_zeros(total.shape[-2:])
            assert weight is not None
            ramp_h = _ramp(tile.shape[-2], (tile_h - stride_h) * scale, top > 0, bottom < grid[0])
            ramp_w = _ramp(tile.shape[-1], (tile_w - stride_w) * scale, left > 0, right < grid[1])
            mask = torch.minimum(ramp_h[:, None], ramp_w[None, :]).to(tile)
            area.cut(total, scale).add_(tile * mask)
            area.cut(weight, scale).add_(mask)
    assert total is not None
    assert weight is not None
    return total / weight


def noised(x_0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """`x_sigma = (1 - sigma) x_0 + sigma noise` of a batch, one sigma `[B]` per sample or one for all."""
    level = sigma.view(-1, *[1] * (x_0.ndim - 1))
    return (1 - level) * x_0 + level * noise


@dataclass(frozen=True, kw_only=True)
class KnownLatents:
    """The first latents of a result, `[B or 1, Z, k, h, w]`, and their noise."""

    latents: torch.Tensor
    noise: torch.Tensor

    def put_into(self, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """In the place of what was sampled, with the noise of its sigma."""
        first = noised(self.latents, self.noise, sigma)
        return torch.cat([first.expand(len(latents), -1, -1, -1, -1), latents[:, :, first.shape[2] :]], dim=2)
