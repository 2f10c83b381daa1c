"""The synthetic engine: (source, instruction, target) samples whose exact target is known."""
