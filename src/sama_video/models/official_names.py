"""The official release's names of weights and diffusers', one table per component for both directions."""

import re
from collections.abc import Callable

# One table per component, (official pattern, diffusers pattern), each an exact rename of whole dotted parts.
# `{i}` stands for a number. Both directions read the same table.
TRANSFORMER_KEYS = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("blocks.{i}.modulation", "blocks.{i}.scale_shift_table"),
    ("blocks.{i}.self_attn.q", "blocks.{i}.attn1.to_q"),
    ("blocks.{i}.self_attn.k", "blocks.{i}.attn1.to_k"),
    ("blocks.{i}.self_attn.v", "blocks.{i}.attn1.to_v"),
    ("blocks.{i}.self_attn.o", "blocks.{i}.attn1.to_out.0"),
    ("blocks.{i}.self_attn.norm_q", "blocks.{i}.attn1.norm_q"),
    ("blocks.{i}.self_attn.norm_k", "blocks.{i}.attn1.norm_k"),
    ("blocks.{i}.cross_attn.q", "blocks.{i}.attn2.to_q"),
    ("blocks.{i}.cross_attn.k", "blocks.{i}.attn2.to_k"),
    ("blocks.{i}.cross_attn.v", "blocks.{i}.attn2.to_v"),
    ("blocks.{i}.cross_attn.o", "blocks.{i}.attn2.to_out.0"),
    ("blocks.{i}.cross_attn.norm_q", "blocks.{i}.attn2.norm_q"),
    ("blocks.{i}.cross_attn.norm_k", "blocks.{i}.attn2.norm_k"),
    ("blocks.{i}.norm3", "blocks.{i}.norm2"),
    ("blocks.{i}.ffn.0", "blocks.{i}.ffn.net.0.proj"),
    ("blocks.{i}.ffn.2", "blocks.{i}.ffn.net.2"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    ("segment_embedding", "type_embedding"),
    ("siglip_feat_mlp.norm", "semantic_projector.norm"),
    ("siglip_feat_mlp.fc1", "semantic_projector.fc1"),
    ("siglip_feat_mlp.fc2", "semantic_projector.fc2"),
    ("semantic_head.norm", "semantic_head.norm"),
    ("semantic_head.proj", "semantic_head.proj"),
)
TEXT_ENCODER_KEYS = (
    ("token_embedding", "shared"),
    ("norm", "encoder.final_layer_norm"),
    ("blocks.{i}.norm1", "encoder.block.{i}.layer.0.layer_norm"),
    ("blocks.{i}.attn.q", "encoder.block.{i}.layer.0.SelfAttention.q"),
    ("blocks.{i}.attn.k", "encoder.block.{i}.layer.0.SelfAttention.k"),
    ("blocks.{i}.attn.v", "encoder.block.{i}.layer.0.SelfAttention.v"),
    ("blocks.{i}.attn.o", "encoder.block.{i}.layer.0.SelfAttention.o"),
    ("blocks.{i}.pos_embedding.embedding", "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias"),
    ("blocks.{i}.norm2", "encoder.block.{i}.layer.1.layer_norm"),
    ("blocks.{i}.ffn.gate.0", "encoder.block.{i}.layer.1.DenseReluDense.wi_0"),
    ("blocks.{i}.ffn.fc1", "encoder.block.{i}.layer.1.DenseReluDense.wi_1"),
    ("blocks.{i}.ffn.fc2", "encoder.block.{i}.layer.1.DenseReluDense.wo"),
)
# Wan's transformer in diffusers, without what SAMA adds.
STOCK_WAN = "WanTransformer3DModel"
# Plain Wan files lack these; a transformer loaded from one starts as Wan, with the new parts newly initialised.
SAMA_KEYS = ("type_embedding.", "semantic_projector.", "semantic_head.")
# What a LoRA file may hold whole, beside low-rank changes.
FULL_KEYS = (*SAMA_KEYS, "source_embedding.")


def renamer(table: tuple[tuple[str, str], ...], reverse: bool = False) -> Callable[[str], str | None]:
    rules = {}
    for official, diffusers in table:
        old, new = (diffusers, official) if reverse else (official, diffusers)
        rules[old] = new

    def rename(key: str) -> str | None:
        block = re.match(r"((?:.*\.)?blocks?\.)(\d+)(\..*)", key)
        pattern = f"{block[1]}{{i}}{block[3]}" if block else key
        stem, _, leaf = pattern.rpartition(".")
        renamed = rules.get(pattern) or (f"{rules[stem]}.{leaf}" if stem in rules else None)
        return renamed.replace("{i}", block[2]) if renamed and block else renamed

    return rename


def vae_keys(wan22: bool) -> tuple[tuple[str, str], ...]:
    """(official, diffusers) stems of Wan's VAE. Wan2.2 nests its levels, Wan2.1 counts its layers through."""
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
    return tuple(keys)
