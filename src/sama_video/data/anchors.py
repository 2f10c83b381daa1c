"""Anchor frames of Semantic Anchoring (paper section 3.2)."""


def anchor_indices(num_frames: int, num_anchors: int = 1) -> list[int]:
    """Indices of `num_anchors` frames spread evenly over a target of `num_frames`; one alone is the first frame.

    An image is its own anchor. The paper sets N = 1 in all experiments (section 4.1).

    Raises:
        ValueError: for more anchors than frames, or none.
    """
    if not 1 <= num_anchors <= num_frames:
        raise ValueError(f"num_anchors must be in 1..{num_frames} for {num_frames} frames, got {num_anchors}")
    if num_anchors == 1:
        return [0]
    # At most as many anchors as frames: steps are at least 1 apart, so rounded indices stay distinct.
    return [round(i * (num_frames - 1) / (num_anchors - 1)) for i in range(num_anchors)]
