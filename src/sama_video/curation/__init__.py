"""Appendix B of the paper: a judge scores pairs, thresholds select them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import curate, ray_backend, rules

__all__ = ["curate", "ray_backend", "rules"]
