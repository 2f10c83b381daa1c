"""The recipes that made SAMA-Nano and its semantic encoder."""
