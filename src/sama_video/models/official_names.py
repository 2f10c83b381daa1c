"""The official release's names of weights and diffusers', one table per component for both directions."""

import re
from collections.abc import Callable, Mapping

from ..system.data_files import table_beside

_TABLES = table_beside(__file__)
# One table per component: official name -> diffusers' name. Both directions read the same table.
TRANSFORMER_KEYS: dict[str, str] = _TABLES["transformer"]
TEXT_ENCODER_KEYS: dict[str, str] = _TABLES["text_encoder"]
WAN22_VAE_LATENTS: dict[str, list[float]] = _TABLES["wan22_vae_latents"]
# Wan's transformer in diffusers, without what SAMA adds.
STOCK_WAN = "WanTransformer3DModel"
# Plain Wan files lack these; a transformer loaded from one starts as Wan, with the new parts newly initialised.
_SAMA_PARTS = ("type_embedding", "semantic_projector", "semantic_head")
SAMA_KEYS = tuple(f"{name}." for name in _SAMA_PARTS)
# All that a transformer may have and Wan has not; a LoRA file may hold it whole, beside low-rank changes.
NEW_PARTS = (*_SAMA_PARTS, "source_embedding", "position_embedding", "pooled_text_embedding", "source_gate")
FULL_KEYS = tuple(f"{name}." for name in NEW_PARTS)


def renamer(table: Mapping[str, str], reverse: bool = False) -> Callable[[str], str | None]:
    rules = {diffusers: official for official, diffusers in table.items()} if reverse else table

    def rename(key: str) -> str | None:
        block = re.match(r"((?:.*\.)?blocks?\.)(\d+)(\..*)", key)
        pattern = f"{block[1]}{{i}}{block[3]}" if block else key
        stem, _, leaf = pattern.rpartition(".")
        renamed = rules.get(pattern) or (f"{rules[stem]}.{leaf}" if stem in rules else None)
        return renamed.replace("{i}", block[2]) if renamed and block else renamed

    return rename


def vae_keys(wan22: bool) -> dict[str, str]:
    """Official -> diffusers' stems of Wan's VAE. Wan2.2 nests its levels, Wan2.1 counts its layers through."""
    residual = (
        ("residual.0", "norm1"),
        ("residual.2", "conv1"),
        ("residual.3", "norm2"),
        ("residual.6", "conv2"),
        ("shortcut", "conv_shortcut"),
    )
    resample = (("resample.1", "resample.1"), ("time_conv", "time_conv"))
    keys = [("conv1", "quant_conv"), ("conv2", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        keys += [(f"{side}.conv1", f"{side}.conv_in"), (f"{side}.head.0", f"{side}.norm_out")]
        keys += [(f"{side}.head.2", f"{side}.conv_out")]
        keys += [(f"{side}.middle.0.{a}", f"{side}.mid_block.resnets.0.{b}") for a, b in residual]
        keys += [(f"{side}.middle.2.{a}", f"{side}.mid_block.resnets.1.{b}") for a, b in residual]
        keys += [(f"{side}.middle.1.{a}", f"{side}.mid_block.attentions.0.{a}") for a in ("norm", "to_qkv", "proj")]
    for level in range(4):
        for layer in range(4):
            down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
            if wan22:
                old_down = f"encoder.downsamples.{level}.downsamples.{layer}"
                old_up = f"decoder.upsamples.{level}.upsamples.{layer}"
                keys += [(f"{old_down}.{a}", f"{down}.resnets.{layer}.{b}") for a, b in residual]
                if layer == 2:  # after two residual blocks
                    keys += [(f"{old_down}.{a}", f"{down}.downsampler.{b}") for a, b in resample]
                if layer == 3:  # after three
                    keys += [(f"{old_up}.{a}", f"{up}.upsampler.{b}") for a, b in resample]
            else:
                flat = 4 * level + layer
                old_down, old_up = f"encoder.downsamples.{flat}", f"decoder.upsamples.{flat}"
                keys += [(f"{old_down}.{a}", f"encoder.down_blocks.{flat}.{b}") for a, b in residual + resample]
                keys += [(f"{old_up}.{a}", f"{up}.upsamplers.0.{b}") for a, b in resample]
            keys += [(f"{old_up}.{a}", f"{up}.resnets.{layer}.{b}") for a, b in residual]
    return dict(keys)
