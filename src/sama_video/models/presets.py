"""Model sizes by name, with the parameter counts they must have.

A preset says how large a model is. Weights come from a folder or a hub id; only `nano` ships with the package.
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..shapes import LatentShape, VideoShape, fit_size, nearest_multiple

ASSETS = Path(__file__).parent.parent / "assets"
NANO_SIGLIP = ASSETS / "nano_siglip"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model size.

    Args:
        transformer: arguments of `SamaTransformer3DModel`.
        num_parameters: of that transformer, exactly.
        spatial_factor: pixels per latent, of its VAE.
        native_area: pixels per frame it was trained at.
        native_num_frames: frames it was trained at (4k+1).
        num_inference_steps, guidance_scale: its usual sampling.
        num_semantic_tokens: tokens of the semantic stream at inference.
        weights: folder that ships with the package, if any.
    """

    transformer: dict
    num_parameters: int
    spatial_factor: int = 8
    native_area: int = 480 * 832
    native_num_frames: int = 81
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    num_semantic_tokens: int = 65
    weights: Path | None = None


def _wan(heads: int, layers: int, ffn_dim: int, channels: int = 16) -> dict:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "num_layers": layers,
        "ffn_dim": ffn_dim,
        "in_channels": channels,
        "out_channels": channels,
    }


PRESETS: dict[str, Preset] = {
    "nano": Preset(
        transformer={
            "num_attention_heads": 8,
            "attention_head_dim": 48,
            "num_layers": 6,
            "ffn_dim": 1536,
            "in_channels": 48,
            "out_channels": 48,
            "text_dim": 192,
            "semantic_dim": 192,
            "semantic_hidden_dim": 192,
            "semantic_rope": "identity",
        },
        num_parameters=15_905_088,
        native_area=128 * 128,
        native_num_frames=33,
        num_inference_steps=6,
        guidance_scale=1.0,
        num_semantic_tokens=0,
        weights=ASSETS / "nano",
    ),
    "wan2.1-1.3b": Preset(transformer=_wan(12, 30, 8960), num_parameters=1_423_532_480),
    "wan2.2-5b": Preset(
        transformer=_wan(24, 30, 14336, channels=48),
        num_parameters=5_007_674_944,
        spatial_factor=16,
        native_area=704 * 1280,
        native_num_frames=121,
    ),
    "wan2.1-14b": Preset(transformer=_wan(40, 40, 13824), num_parameters=14_300_847_552),
}


def estimate(
    name: str, height: int | None = None, width: int | None = None, num_frames: int | None = None
) -> list[str]:
    """Lines on a preset at a clip size: sizes, tokens, memory.

    Memory: weights in bfloat16 plus one block's live activations for one branch of guidance; the VAE and the text
    encoder come on top unless they are offloaded.

    Raises:
        UserError: for a size that the model cannot take.
    """
    preset = PRESETS[name]
    model = preset.transformer
    multiple = 2 * preset.spatial_factor
    if (height is None) != (width is None):
        raise UserError("give both --height and --width, or neither")
    if height is None or width is None:
        height, width = fit_size(9, 16, preset.native_area, multiple)
    if height % multiple or width % multiple or min(height, width) < 1:
        raise UserError(
            f"height and width must be multiples of {multiple}, got {height}x{width}; use "
            f"{nearest_multiple(height, multiple)}x{nearest_multiple(width, multiple)}"
        )
    frames = preset.native_num_frames if num_frames is None else num_frames
    try:
        shape = LatentShape.from_video(VideoShape(num_frames=frames, height=height, width=width), preset.spatial_factor)
    except ValueError as error:
        raise UserError(str(error)) from error
    per_clip = shape.num_tokens()
    total = 2 * per_clip + preset.num_semantic_tokens
    inner = model["num_attention_heads"] * model["attention_head_dim"]
    activations = total * (8 * inner + model["ffn_dim"]) * 2
    weights = preset.num_parameters * 2
    return [
        f"preset       {name}",
        f"transformer  {preset.num_parameters:,} parameters, width {inner}, {model['num_layers']} layers",
        f"clip         {width}x{height}, {frames} frames",
        f"latents      {model['in_channels']} channels, {shape.frames} x {shape.height} x {shape.width}",
        f"tokens       {total:,} = source {per_clip:,} + semantic {preset.num_semantic_tokens} + target {per_clip:,}",
        f"memory       about {(weights + activations) / 2**30:.1f} GiB: weights {weights / 2**30:.1f} in bfloat16, "
        f"activations {activations / 2**30:.1f}",
        f"sampling     {preset.num_inference_steps} steps, guidance {preset.guidance_scale:g}",
        f"weights      {'shipped with the package' if preset.weights else 'not shipped: see docs/weights.md'}",
    ]
