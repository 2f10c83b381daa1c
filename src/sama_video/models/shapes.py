"""Sizes: videos, latents, tokens. The only place with 4k+1, division by the VAE's factors, and patch arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TEMPORAL_FACTOR = 4
WAN_SPATIAL_FACTOR = 8  # pixels per latent of Wan2.1's VAE, and of one that does not say
PATCH = (1, 2, 2)  # latent frames, rows and columns of a token, in every model of Wan's kin
RELEASE_TILE = (30, 52)  # latent rows and columns that the release's VAE works on at a time
SEMANTIC_GRID = 8  # regions a side of an anchor frame, one local semantic token each: M = 64 (paper section 4.1)


@dataclass(frozen=True, kw_only=True)
class VideoShape:
    """A clip in pixels, without batch and channels."""

    num_frames: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class LatentShape:
    """A clip on the VAE's grid."""

    frames: int
    height: int
    width: int

    @classmethod
    def from_video(cls, video: VideoShape, spatial_factor: int = WAN_SPATIAL_FACTOR) -> "LatentShape":
        """Raises ValueError, with sizes that would do, for a video that the VAE cannot take."""
        if problem := wrong_num_frames(video.num_frames):
            raise ValueError(f"num_frames {problem}")
        if video.height % spatial_factor or video.width % spatial_factor:
            raise ValueError(
                f"height and width must divide by {spatial_factor}, got {video.height}x{video.width}; use "
                f"{nearest_multiple(video.height, spatial_factor)}x{nearest_multiple(video.width, spatial_factor)}"
            )
        return cls(
            frames=(video.num_frames - 1) // TEMPORAL_FACTOR + 1,
            height=video.height // spatial_factor,
            width=video.width // spatial_factor,
        )

    def num_tokens(self, patch_size: Sequence[int] = PATCH) -> int:
        return (self.frames // patch_size[0]) * (self.height // patch_size[1]) * (self.width // patch_size[2])


def tokens_per_anchor(grid: int) -> int:
    """Of the semantic stream: a local one for each of `grid` x `grid` regions and a global one (paper section 3.2)."""
    return grid**2 + 1


def semantic_tokens(of_video: int, num_frames: int, grid: int) -> int:
    """Tokens of the semantic stream of a target of `num_frames` (not latent frames), where a video has `of_video`.

    There are no more anchor frames than frames: a picture has one, itself.
    """
    return min(of_video, num_frames * tokens_per_anchor(grid))


def is_valid_num_frames(num_frames: int) -> bool:
    return num_frames >= 1 and num_frames % TEMPORAL_FACTOR == 1


def frames_of_latents(latent_frames: int) -> int:
    """Frames of a video of so many latent frames."""
    return (latent_frames - 1) * TEMPORAL_FACTOR + 1


def anchor_indices(num_frames: int, num_anchors: int = 1) -> list[int]:
    """Indices of `num_anchors` frames of Semantic Anchoring spread evenly over a target of `num_frames`; one alone is
    the first frame (paper section 3.2).

    An image is its own anchor. The paper sets N = 1 in all experiments (section 4.1).

    Raises:
        ValueError: for more anchors than frames, or none.
    """
    if not 1 <= num_anchors <= num_frames:
        raise ValueError(f"num_anchors must be 1 to {num_frames} for {num_frames} frames, got {num_anchors}")
    if num_anchors == 1:
        return [0]
    # At most as many anchors as frames: steps are at least 1 apart, so rounded indices stay distinct.
    return [round(i * (num_frames - 1) / (num_anchors - 1)) for i in range(num_anchors)]


def wrong_num_frames(num_frames: int) -> str:
    """What is wrong with a number of frames, and which to use; empty for 4k+1."""
    near = " or ".join(map(str, sorted(set(neighbouring_num_frames(num_frames)))))
    return "" if is_valid_num_frames(num_frames) else f"must be 4k+1, got {num_frames}; use {near}"


def neighbouring_num_frames(num_frames: int) -> tuple[int, int]:
    """The largest 4k+1 not above, and the smallest not below."""
    lower = max(1, (num_frames - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1)
    return lower, lower if lower >= num_frames else lower + TEMPORAL_FACTOR


def nearest_multiple(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


# (height, width) of the release: multiples of 32 at about 480 x 832 pixels, height / width from 1/2 to 2.
RELEASE_SIZES = tuple(
    (height, width)
    for width, height in (
        *((896, 448), (832, 480), (768, 512), (736, 544), (704, 576), (672, 608), (640, 640), (608, 672)),
        *((576, 704), (544, 736), (512, 768), (512, 800), (480, 832), (448, 864), (448, 896)),
    )
)


def release_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) at which the release edits a source of this size: the nearest by width / height."""
    return min(RELEASE_SIZES, key=lambda size: abs(size[1] / size[0] - width / height))


def fit_size(height: float, width: float, area: int, multiple: int) -> tuple[int, int]:
    """The (height, width) in multiples of `multiple` nearest to the aspect ratio height : width at about `area` pixels.

    Among the neighbours of the exact size, the one whose aspect ratio and area deviate least (the ratio counts more).
    """
    scale = math.sqrt(area / (height * width))
    exact_h, exact_w = height * scale, width * scale

    def neighbours(length: float) -> set[int]:
        low = math.floor(length / multiple) * multiple
        return {max(multiple, low), max(multiple, low + multiple)}

    def deviation(size: tuple[int, int]) -> float:
        ratio = abs(math.log(size[0] / size[1]) - math.log(height / width))
        return 2 * ratio + abs(math.log(size[0] * size[1] / area))

    return min(((h, w) for h in neighbours(exact_h) for w in neighbours(exact_w)), key=deviation)
