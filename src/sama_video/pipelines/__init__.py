"""SamaPipeline: how it is found, checked and loaded."""

# Modules that other rooms take.
__all__ = ["conversion", "loading", "lora_files", "pipeline_sama", "registration", "scope", "selection"]
