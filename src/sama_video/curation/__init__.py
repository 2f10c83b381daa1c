"""Appendix B of the paper: a judge scores pairs, thresholds select them."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
__all__ = ["curate", "ray_backend", "rules"]
