"""What the judge is shown of a file: labelled frames as JPEG, or the file itself.

Looking (`look`) reads sizes and hashes and settles which frames will be shown; `encode` decodes and packs them. So a
store can be asked for an answer without decoding a clip.

Times are exact seconds from a clip's beginning. Frames are uint8 `[H, W, 3]`.
"""

import base64
import io
import math
import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..errors import UserError
from ..files import hash_file
from ..video import TIME_TOLERANCE, VideoReader

MEDIA_KINDS = ("frames", "video_url")


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """How clips are shown.

    Args:
        kind: `frames` sends labelled JPEG frames as `image_url` parts, which any endpoint takes; `video_url` sends
            whole files, which vLLM takes and samples itself. Pictures are always sent as one frame.
        num_frames: frames shown of each clip.
        long_side: at most so many pixels along a frame's longer side; frames never grow.
        jpeg_quality: 1 to 95.
    """

    kind: str = "frames"
    num_frames: int = 8
    long_side: int = 512
    jpeg_quality: int = 90

    def __post_init__(self):
        if self.kind not in MEDIA_KINDS:
            raise UserError(f"media must be one of {', '.join(MEDIA_KINDS)}, got {self.kind!r}")
        if self.num_frames < 1:
            raise UserError(f"a judge must see at least 1 frame a clip, got {self.num_frames}")


@dataclass(frozen=True)
class Look:
    """A file as the judge will see it.

    Args:
        path: local file.
        sha256: of the file's bytes.
        height, width: of the frames shown, pixels.
        times: seconds at which frames are shown; empty where the whole file is sent. With the file's hash they settle
            the frames, since a time shows one frame.
        is_image: a single picture.
    """

    path: Path
    sha256: str
    height: int
    width: int
    times: tuple[Fraction, ...]
    is_image: bool

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on: content, size and times, not the file's place."""
        times = [str(time) for time in self.times]
        return {"sha256": self.sha256, "height": self.height, "width": self.width, "times": times}


def look(paths: Sequence[Path], config: MediaConfig) -> list[Look]:
    """How clips to be compared will be shown: at the same times, spread over the length that all of them have.

    Raises:
        UserError: for a file that cannot be read, or pictures among videos.
    """
    readers = [VideoReader(path) for path in paths]
    if len({reader.info.is_image for reader in readers}) > 1:
        raise UserError("one file is a picture and one a video; a judge compares two of a kind")
    is_image = readers[0].info.is_image
    times = _times(readers, config)
    return [
        Look(reader.path, hash_file(reader.path), *_shown_size(reader, config.long_side), times, is_image)
        for reader in readers
    ]


def _times(readers: list[VideoReader], config: MediaConfig) -> tuple[Fraction, ...]:
    if readers[0].info.is_image:
        return (Fraction(0),)
    if config.kind == "video_url":
        return ()
    counts = [reader.info.num_frames or sum(1 for _ in reader.frames(size=(2, 2))) for reader in readers]
    last = min((count - 1) / reader.info.fps for count, reader in zip(counts, readers, strict=True))
    shown = min(config.num_frames, *counts)
    return tuple(last * index / (shown - 1) for index in range(shown)) if shown > 1 else (last / 2,)


def _shown_size(reader: VideoReader, long_side: int) -> tuple[int, int]:
    height, width = reader.info.height, reader.info.width
    scale = min(1.0, long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class Encoded:
    """A file ready to be sent: for each frame, or for the whole file, its label after the name, and a message part."""

    labelled_parts: list[tuple[str, dict[str, Any]]]


def encode(one: Look, config: MediaConfig) -> Encoded:
    """Raises UserError for a clip that does not decode to its end."""
    if not one.times:
        url = _data_url(one.path.read_bytes(), mimetypes.guess_type(one.path.name)[0] or "video/mp4")
        return Encoded([("", {"type": "video_url", "video_url": {"url": url}})])
    labelled_parts = []
    for time, pixels in _frames_at(one):
        url = _data_url(_jpeg(pixels, config.jpeg_quality), "image/jpeg")
        label = "" if one.is_image else f", t={float(time):.2f} s"
        labelled_parts.append((label, {"type": "image_url", "image_url": {"url": url}}))
    return Encoded(labelled_parts)


def message_parts(files: Sequence[Encoded]) -> list[dict[str, Any]]:
    """Parts of an OpenAI chat message that show `files` as "Video 1", "Video 2", with the time of every frame."""
    return [
        part
        for number, file in enumerate(files, 1)
        for label, media in file.labelled_parts
        for part in ({"type": "text", "text": f"Video {number}{label}:"}, media)
    ]


def _frames_at(one: Look) -> Iterator[tuple[Fraction, np.ndarray]]:
    """The frame shown at each of the times, `[H, W, 3]`."""
    reader = VideoReader(one.path)
    wanted = list(one.times)
    shown = None
    for frame in reader.frames(size=(one.height, one.width)):
        while shown is not None and wanted and frame.time > wanted[0] + TIME_TOLERANCE:
            yield wanted.pop(0), shown
        shown = frame.pixels
    if reader.damaged:
        raise UserError(f"{one.path} is damaged ({reader.damaged})")
    if shown is not None:
        yield from ((time, shown) for time in wanted)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _data_url(content: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def estimated_tokens(looks: Sequence[Look], prompt: str) -> int | None:
    """Input tokens of a request, or None where the server chooses the frames.

    Qwen2.5-VL turns 28 x 28 pixels into a token; a frame's label takes about 12 and four characters of text about one.
    """
    if not all(one.times for one in looks):
        return None
    frame_tokens = sum(len(one.times) * (math.ceil(one.height / 28) * math.ceil(one.width / 28) + 12) for one in looks)
    return frame_tokens + len(prompt) // 4
