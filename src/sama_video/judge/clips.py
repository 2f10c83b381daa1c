"""What the judge is shown of a file: labelled frames as JPEG, two clips' frames side by side, or the file itself.

`views_of` reads sizes and hashes and settles which frames will be shown; `shown_parts` decodes and packs them. So a
store can be asked for an answer without decoding a clip.

Times are exact seconds from a clip's beginning. Frames are uint8 `[H, W, 3]`.
"""

import base64
import io
import math
import mimetypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..system.errors import UserError
from ..system.files import hash_file
from ..system.strict import Strict
from ..video import TIME_TOLERANCE, VideoReader

WHOLE_FILES = ("video_url", "video_in_image_url")
_KINDS = ("frames", "side_by_side", *WHOLE_FILES)


@dataclass(frozen=True, kw_only=True)
class MediaConfig(Strict):
    """How clips are shown.

    Args:
        kind: `frames` sends labelled JPEG frames as `image_url` parts, which any endpoint takes. `side_by_side` joins
            the frames of two clips, the first on the left. `video_url` sends whole files, which vLLM takes and samples
            itself; `video_in_image_url` sends them as `image_url` parts, which some gateways to Gemini take. Pictures
            are always sent as one frame.
        num_frames: frames shown of each clip, spread evenly.
        stride: if given, every so many-th frame is shown instead, counted in each clip by itself.
        long_side: at most so many pixels along the longer side of `frames`; they never grow.
        height, short_side: of `side_by_side`, pixels: each clip is brought to `height`, and the joined picture then
            grows until its shorter side has `short_side`.
        jpeg_quality: 1 to 95.
        prompt_first: the prompt comes before the media.
        labelled: a line before each picture or file says which video it is, and when.
    """

    kind: str = "frames"
    num_frames: int = 8
    stride: int | None = None
    long_side: int = 512
    height: int = 224
    short_side: int = 512
    jpeg_quality: int = 90
    prompt_first: bool = False
    labelled: bool = True

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise UserError(f"media must be one of {', '.join(_KINDS)}, got {self.kind!r}")
        if self.num_frames < 1:
            raise UserError(f"a judge must see at least 1 frame a clip, got {self.num_frames}")

    @property
    def decisive(self) -> dict[str, Any]:
        """What an answer depends on beyond the views."""
        shown: dict[str, Any] = {"kind": self.kind, "jpeg_quality": self.jpeg_quality}
        if self.kind == "side_by_side":
            shown["short_side"] = self.short_side
        if self.prompt_first:
            shown["prompt_first"] = True
        if not self.labelled:
            shown["labelled"] = False
        return shown

    @property
    def settings(self) -> dict[str, Any]:
        """All values, for records; one that records of earlier releases lack is there only where it is not theirs."""
        values = asdict(self)
        return values if not self.labelled else {key: value for key, value in values.items() if key != "labelled"}


@dataclass(frozen=True)
class View:
    """A file as the judge will see it.

    Args:
        path: local file.
        sha256: of the file's bytes.
        height, width: of the frames shown, pixels.
        times: seconds at which frames are shown; empty where the whole file is sent. With the file's hash they settle
            the frames, since a time shows one frame.
        num_frames: that the file has.
        own_height: of the file's frames, pixels.
        is_image: a single picture.
    """

    path: Path
    sha256: str
    height: int
    width: int
    times: tuple[Fraction, ...]
    num_frames: int
    is_image: bool
    own_height: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on: content, size and times, not where the file is."""
        times = [str(time) for time in self.times]
        return {"sha256": self.sha256, "height": self.height, "width": self.width, "times": times}


def views_of(paths: Sequence[Path], config: MediaConfig) -> list[View]:
    """How clips to be compared will be shown: at the same times, spread over the length that all of them have, or by
    `stride` at the same frame numbers.

    Raises:
        UserError: for a file that cannot be read, or pictures among videos.
    """
    readers = [VideoReader(path) for path in paths]
    if len({reader.info.is_image for reader in readers}) > 1:
        raise UserError("one file is a picture and one a video; a judge compares two of a kind")
    counts = [reader.info.num_frames or sum(1 for _ in reader.frames(size=(2, 2))) for reader in readers]
    return [
        View(
            path=reader.path,
            sha256=hash_file(reader.path),
            height=size[0],
            width=size[1],
            times=times,
            num_frames=count,
            is_image=reader.info.is_image,
            own_height=reader.info.height,
        )
        for reader, count, times in zip(readers, counts, _times(readers, counts, config), strict=True)
        for size in [_shown_size(reader, config)]
    ]


def _times(readers: list[VideoReader], counts: list[int], config: MediaConfig) -> list[tuple[Fraction, ...]]:
    """Of each clip's frames to be shown."""
    if readers[0].info.is_image:
        return [(Fraction(0),)] * len(readers)
    if config.kind in WHOLE_FILES:
        return [()] * len(readers)
    if config.stride is not None:
        numbers = range(0, min(counts), config.stride)
        return [tuple(number / reader.info.fps for number in numbers) for reader in readers]
    last = min((count - 1) / reader.info.fps for count, reader in zip(counts, readers, strict=True))
    shown = min(config.num_frames, *counts)
    spread = tuple(last * index / (shown - 1) for index in range(shown)) if shown > 1 else (last / 2,)
    return [spread] * len(readers)


def _shown_size(reader: VideoReader, config: MediaConfig) -> tuple[int, int]:
    height, width = reader.info.height, reader.info.width
    scale = config.height / height if config.kind == "side_by_side" else min(1.0, config.long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


# A file ready to be sent: for each frame, or for all of it, what its label says after the name, and a message part.
Encoded = list[tuple[str, dict[str, Any]]]


def encode(view: View, config: MediaConfig) -> Encoded:
    """Raises UserError for a clip that does not decode to its end."""
    if not view.times:
        url = _data_url(view.path.read_bytes(), mimetypes.guess_type(view.path.name)[0] or "video/mp4")
        part = "video_url" if config.kind == "video_url" else "image_url"
        return [("", {"type": part, part: {"url": url}})]
    return [
        ("" if view.is_image else f", t={float(time):.2f} s", _picture_part(PIL.Image.fromarray(pixels), config))
        for time, pixels in _frames_at(view)
    ]


def shown_parts(
    views: Sequence[View], config: MediaConfig, encode: Callable[[View, MediaConfig], Encoded] = encode
) -> list[dict[str, Any]]:
    """Parts of an OpenAI chat message that show clips as `config` says, by default as "Video 1", "Video 2", with the
    time of every frame.

    Args:
        encode: as the function of that name, which forgets what it made.

    Raises:
        UserError: for a clip that does not decode to its end.
    """
    if config.kind == "side_by_side":
        left, right = views
        return _joined_parts(left, right, config)
    return [
        part
        for number, view in enumerate(views, 1)
        for label, media in encode(view, config)
        for part in ([{"type": "text", "text": f"Video {number}{label}:"}] * config.labelled + [media])
    ]


def _joined_parts(left: View, right: View, config: MediaConfig) -> list[dict[str, Any]]:
    parts = []
    for (_, before), (_, after) in zip(_frames_at(left), _frames_at(right), strict=True):
        joined = PIL.Image.fromarray(np.concatenate([before, after], axis=1))
        height, width = _joined_size(left, right, config)
        parts.append(_picture_part(joined.resize((width, height), PIL.Image.Resampling.LANCZOS), config))
    return parts


def _joined_size(left: View, right: View, config: MediaConfig) -> tuple[int, int]:
    height, width = left.height, left.width + right.width
    scale = max(1.0, config.short_side / min(height, width))
    return int(height * scale), int(width * scale)


def _frames_at(view: View) -> Iterator[tuple[Fraction, np.ndarray]]:
    """The frame shown at each of the times, `[H, W, 3]`."""
    reader = VideoReader(view.path)
    wanted = list(view.times)
    shown = None
    for frame in reader.frames(size=(view.height, view.width)):
        while shown is not None and wanted and frame.time > wanted[0] + TIME_TOLERANCE:
            yield wanted.pop(0), shown
        shown = frame.pixels
    if reader.damaged:
        raise UserError(f"{view.path} is damaged ({reader.damaged})")
    if shown is not None:
        yield from ((time, shown) for time in wanted)


def _picture_part(picture: PIL.Image.Image, config: MediaConfig) -> dict[str, Any]:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=config.jpeg_quality)
    return {"type": "image_url", "image_url": {"url": _data_url(file.getvalue(), "image/jpeg")}}


def _data_url(content: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def estimated_tokens(views: Sequence[View], prompt: str, config: MediaConfig) -> int | None:
    """Input tokens of a request, or None where the server chooses the frames.

    Qwen2.5-VL turns 28 x 28 pixels into a token; a frame's label takes about 12 and four characters of text about one.
    """
    if not all(view.times for view in views):
        return None
    if config.kind == "side_by_side":
        pictures = len(views[0].times) * _picture_tokens(*_joined_size(views[0], views[1], config))
    else:
        pictures = sum(len(view.times) * (_picture_tokens(view.height, view.width) + 12) for view in views)
    return pictures + len(prompt) // 4


def _picture_tokens(height: int, width: int) -> int:
    return math.ceil(height / 28) * math.ceil(width / 28)
