"""Training: losses, optimizer, loop, and the recipe of the shipped SAMA-Nano."""

# The modules that other rooms take, which import them where they are needed: most of them import torch.
# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "caching",
    "config",
    "estimate",
    "interrupts",
    "logs",
    "mixture",
    "overrides",
    "recipes",
    "stages",
    "trainer",
]
