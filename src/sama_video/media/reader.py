"""Any video or picture file in: upright RGB frames with exact times, and notes on what was done to them.

Frames are uint8 `[H, W, 3]`. Times are exact fractions of a second from the first frame that is shown.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from ..system.errors import UserError
from .animation import Animation, is_animated
from .film import Film
from .frames import Frame, VideoInfo
from .opening import check_file
from .pictures import Still, picture_kind

__all__ = ["TIME_TOLERANCE", "Frame", "VideoInfo", "VideoReader"]

TIME_TOLERANCE = Fraction(1, 100_000)


class VideoReader:
    """A video or image file whose frames can be read again and again, as a stream.

    Args:
        path: what the file is tells its content, not its name.
        max_pixels: of a frame, checked before it is decoded; None for `MAX_SOURCE_PIXELS`.

    Attributes:
        info: what the file says of itself.
        notes: sentences on what was done to the picture that one would not expect, such as "deinterlaced"; complete
            when the frames were read, nearly so when the first was.
        damaged: what is damaged, known when the frames were read; None if nothing is.

    Raises:
        UserError: for a missing file, one that is not a video, one beyond the limit, or one without a decodable frame.
    """

    def __init__(self, path: str | Path, max_pixels: int | None = None):
        self.path = Path(path)
        status = check_file(self.path)
        self._state = (status.st_size, status.st_mtime_ns)
        kind = picture_kind(self.path)
        if kind is None:
            self._file = Film(self.path, max_pixels)
        elif is_animated(self.path, kind, max_pixels):
            self._file = Animation(self.path, kind, max_pixels)
        else:
            self._file = Still(self.path, kind, max_pixels)
        self.info: VideoInfo = self._file.info

    @property
    def is_current(self) -> bool:
        """Whether the file is still the one that was opened, by its size and time."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == self._state

    @property
    def notes(self) -> list[str]:
        return self._file.notes

    @property
    def damaged(self) -> str | None:
        return self._file.damaged

    @property
    def origin(self) -> Fraction | None:
        """Seconds on the file's own clock at which its first frame is shown; None for what has no other tracks."""
        return self._file.origin if isinstance(self._file, Film) else None

    def frames(
        self, start: float | Fraction = 0.0, num_frames: int | None = None, size: tuple[int, int] | None = None
    ) -> Iterator[Frame]:
        """Frames from the one shown at `start` seconds on, each resized to `size` (height, width).

        Seeking goes early and decodes up to the wanted time, so the first frame is exact in every container.

        Raises:
            UserError: if no frame is shown at `start` or later.
        """
        count = 0
        # A time that was a fraction once may have lost its last digits on the way.
        for frame in self._file.frames(Fraction(start) + TIME_TOLERANCE, size):
            if num_frames is not None and count >= num_frames:
                return
            yield frame
            count += 1
        if count == 0:
            raise UserError(f"{self.path} shows nothing at {float(start):g} s; choose an earlier start")

    def times(self) -> Iterator[Fraction]:
        """Times of all frames that decode; pixels are not converted, since nobody looks at them."""
        return self._file.times()
