"""Training: losses, optimizer, loop, and the recipe of the shipped SAMA-Nano."""
