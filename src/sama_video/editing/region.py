"""Where a source is edited: a box, a picture or a clip of white on black. Outside of it results are the source.

Shape legend: H W the source's size.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..system.errors import UserError
from ..video import TIME_TOLERANCE, Frame, VideoInfo, VideoReader
from .settings import Box, EditSettings

_SOFT = 0.02  # of the shorter side: how wide the soft edge is where nobody says


def usual_feather(height: int, width: int) -> int:
    """How many pixels of soft edge a picture of this size gets where nobody says."""
    return round(_SOFT * min(height, width))


def softened(selected: np.ndarray, feather: int) -> np.ndarray:
    """Weights float32 `[H, W]` in 0..1 that rise from the border of what is selected over `feather` pixels inside it.

    w = selected * clip((d - 1/2) / feather, 0, 1), d the distance to the nearest pixel that is kept.
    """
    if not feather or selected.min() > 0:
        return selected
    distance: np.ndarray = distance_transform_edt(selected > 0)  # pyright: ignore[reportAssignmentType]
    return selected * np.clip((distance.astype(np.float32) - 0.5) / feather, 0, 1)


class Region:
    """Weights of an edit, frame by frame.

    Args:
        settings: `box`, `mask` and `feather` of them.
        info: of the source.

    Raises:
        UserError: for a box beside the picture, or a mask that cannot be read or selects nothing.
    """

    def __init__(self, settings: EditSettings, info: VideoInfo):
        self.size = (info.height, info.width)
        self.start = settings.start
        self.feather = usual_feather(*self.size) if settings.feather is None else settings.feather
        self.box = None if settings.box is None else self._box_weights(Box.parse(settings.box))
        self.mask = None if settings.mask is None else VideoReader(settings.mask, settings.max_source_pixels)
        if self.mask is not None:
            first = next(self._masks())
            self._selected(first.pixels, required=self.mask.info.is_image)

    def weights(self, times: Iterable[Fraction]) -> Iterator[np.ndarray]:
        """float32 `[H, W]` in 0..1 for frames that the source shows at these times: 0 is the source.

        A mask's frames count by their times; its last one stays.
        """
        if self.mask is None:
            assert self.box is not None
            weights = softened(self.box, self.feather)
            for _ in times:
                yield weights
            return
        masks = self._masks()
        current, following = next(masks), next(masks, None)
        weights = softened(self._selected(current.pixels), self.feather)
        for time in times:
            moved = False
            while following is not None and following.time <= time + TIME_TOLERANCE:
                current, following, moved = following, next(masks, None), True
            if moved:
                weights = softened(self._selected(current.pixels), self.feather)
            yield weights

    def _masks(self) -> Iterator[Frame]:
        assert self.mask is not None
        return self.mask.frames(0.0 if self.mask.info.is_image else self.start, size=self.size)

    def _box_weights(self, box: Box) -> np.ndarray:
        weights = np.zeros(self.size, np.float32)
        top, left, height, width = box.pixels(*self.size)
        weights[top : top + height, left : left + width] = 1
        if not weights.any():
            raise UserError(f"`box` lies outside of the picture, which has {self.size[1]}x{self.size[0]} pixels")
        return weights

    def _selected(self, pixels: np.ndarray, *, required: bool = False) -> np.ndarray:
        selected = pixels.mean(axis=2, dtype=np.float32) / 255
        if self.box is not None:
            selected = selected * self.box
        if required and not selected.any():
            assert self.mask is not None
            within = " within `box`" if self.box is not None else ""
            raise UserError(f"the mask {self.mask.path} selects nothing{within}: white is edited, black is kept")
        return selected
