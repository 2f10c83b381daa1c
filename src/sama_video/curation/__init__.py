"""Appendix B of the paper: a judge scores pairs, thresholds select them."""
