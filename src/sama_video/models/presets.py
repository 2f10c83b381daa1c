"""Model sizes by name, with the parameter counts they must have.

A preset says how large a model is. Weights come from a folder or a hub id; only `nano` ships with the package.
"""

from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"


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
        num_parameters=0,
        native_area=128 * 128,
        native_num_frames=33,
        num_inference_steps=12,
        guidance_scale=1.0,
        num_semantic_tokens=0,
        weights=ASSETS / "nano",
    ),
    "wan2.1-1.3b": Preset(transformer=_wan(12, 30, 8960), num_parameters=1_423_532_480),
    "wan2.2-5b": Preset(
        transformer=_wan(24, 30, 14336, channels=48),
        num_parameters=0,
        spatial_factor=16,
        native_area=704 * 1280,
        native_num_frames=121,
    ),
    "wan2.1-14b": Preset(transformer=_wan(40, 40, 13824), num_parameters=14_300_847_552),
}
