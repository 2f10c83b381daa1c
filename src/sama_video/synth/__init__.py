"""The synthetic engine: (source, instruction, target) samples whose exact target is known."""

# The modules that other rooms take.
# pyright: reportUnsupportedDunderAll=false
__all__ = ["edits", "engine", "footage", "looks", "reading"]
