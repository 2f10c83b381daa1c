"""From files and the engine to batches: manifests, pretext tasks, anchor frames, buckets, caches."""

# The modules that other rooms take, which import them where they are needed: most of them import torch.
# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "buckets",
    "cache",
    "catalogue",
    "check",
    "datasets",
    "encoding",
    "engine_set",
    "epoch",
    "file_info",
    "loader",
    "manifest",
    "pretext",
    "samples",
    "shards",
]
