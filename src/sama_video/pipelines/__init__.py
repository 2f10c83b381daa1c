"""SamaPipeline: how it is found, checked and loaded."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
__all__ = ["conversion", "loading", "lora_files", "pipeline_sama", "portable_code", "publishing", "scope", "selection"]
