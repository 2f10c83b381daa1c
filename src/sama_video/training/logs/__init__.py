"""What a run writes for people: metrics, curves, sheets, where it came from."""
