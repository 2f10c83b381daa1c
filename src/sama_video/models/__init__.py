"""Transformer, autoencoder and SigLIP, and weights on disk."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "autoencoder_sama_nano", "checkpoint_files", "convert_checkpoint", "diffusers_folders", "latents",
    "lora_namings", "official_names", "presets", "semantic_encoder", "shapes", "strict_loading",
    "transformer_sama", "weight_files",
]  # fmt: skip
