"""How pictures of a result are encoded: which encoder, in which pixels, at which quality, with or without alpha."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from ..system.data_files import table_beside
from ..system.errors import UserError
from .colour import off_white
from .containers import CONTAINER_NAMES, PICTURE_CODECS, container_of

_TABLE: dict[str, dict] = table_beside(__file__)
CODECS = tuple(_TABLE)
_BT709 = 1


@dataclass(frozen=True, kw_only=True)
class PictureCoding:
    """How pictures are encoded.

    Args:
        codec: one of `CODECS`.
        crf: quality on x264's scale, lower is better; 0 loses nothing. Codecs without a quality go by their own.
        alpha: whether pictures say how opaque they are.

    Raises:
        UserError: for what the codec cannot do.
    """

    codec: str = "h264"
    crf: int = 16
    alpha: bool = False

    def __post_init__(self) -> None:
        if self.crf == 0 and "lossless" not in self._entry:
            able = [name for name in CODECS if "lossless" in _TABLE[name]]
            raise UserError(f"{self.name} cannot keep every pixel (`crf` 0); use `codec` {' or '.join(able)}")

    @classmethod
    def of(cls, output: Path, codec: str | None = None, crf: int = 16, *, has_alpha: bool = False) -> "PictureCoding":
        """For a file: its container's usual codec where none is named, with alpha if pictures and codec have it.

        Raises:
            UserError: for a codec that the container does not hold.
        """
        container = container_of(output)
        held = PICTURE_CODECS[container]
        if codec is not None and codec not in held:
            others = [suffix for suffix in CONTAINER_NAMES if codec in PICTURE_CODECS[suffix]]
            raise UserError(
                f"{CONTAINER_NAMES[container]} does not hold {_TABLE[codec]['name']}: it holds {' or '.join(held)}; "
                f"or write {' or '.join(others)}"
            )
        entry = _TABLE[codec or held[0]]
        holds_alpha = "alpha" in entry and (crf > 0 or "pixels" not in entry.get("lossless", {}))
        return cls(codec=codec or held[0], crf=crf, alpha=has_alpha and holds_alpha)

    @property
    def _entry(self) -> dict:
        return _TABLE[self.codec]

    @property
    def name(self) -> str:
        """As people know it."""
        return self._entry["name"]

    @property
    def multiple(self) -> int:
        """What both sides of the pictures are made to divide by."""
        return self._entry.get("multiple", 1)

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures that the codec cannot hold."""
        longest = self._entry["longest_side"]
        if not (0 < height <= longest and 0 < width <= longest):
            raise UserError(
                f"a video of {width}x{height} cannot be written: {self.name} holds at most {longest} pixels a side; "
                "use `output_size` model, or scale the source down first"
            )

    def add_stream(
        self, container: av.container.OutputContainer, height: int, width: int, fps: Fraction, time_base: Fraction
    ) -> av.VideoStream:
        """A stream of a file, ready for pictures of this size at times on this clock."""
        entry, lossless = self._entry, self._entry.get("lossless") if self.crf == 0 else None
        options = {key: str(value) for key, value in entry.get("options", {}).items()}
        if lossless is not None:
            options |= {key: str(value) for key, value in lossless.get("options", {}).items()}
        elif "quality" in entry:
            options[entry["quality"]["option"]] = str(round(np.interp(self.crf, *entry["quality"]["values"])))
        if self.alpha:
            options |= {key: str(value) for key, value in entry.get("alpha_options", {}).items()}
        if time_base != 1 / fps:
            # MP4 sums durations in decoding order: reordered frames of unequal length blur them.
            options |= entry.get("in_order", {})
        encoder = (lossless or {}).get("encoder", entry["encoder"])
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.height, stream.width = height, width
        stream.pix_fmt = (lossless or {}).get("pixels") or (entry["alpha"] if self.alpha else entry["pixels"])
        context = stream.codec_context
        context.time_base = time_base
        context.flags |= Flags.frame_duration  # the last picture lasts as long as it did
        if "tag" in entry and container.format.name in ("mp4", "mov", "ipod"):
            context.codec_tag = entry["tag"]
        if stream.pix_fmt.startswith("yuv"):
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = ColorRange.MPEG
        return stream

    def converter(self, stream: av.VideoStream) -> "Converter":
        return Converter(stream, self.alpha)


class Converter:
    """Pictures as the encoder of a stream takes them."""

    def __init__(self, stream: av.VideoStream, alpha: bool):
        self.pixel_format, self.with_alpha = str(stream.pix_fmt), alpha
        self.graph = _palette_graph(stream, alpha) if self.pixel_format == "pal8" else None

    def convert(self, pixels: np.ndarray, alpha: np.ndarray | None, pts: int, time_base: Fraction) -> av.VideoFrame:
        """uint8 `[H, W, 3]`; opacity `[H, W]`, None where all is opaque, without effect in a coding without alpha."""
        if self.with_alpha:
            opacity = np.full(pixels.shape[:2], 255, np.uint8) if alpha is None else alpha
            pixels = np.dstack([off_white(pixels, opacity[..., None]), opacity])
        picture = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels), format=f"rgb{'a' if self.with_alpha else '24'}"
        )
        picture.pts, picture.time_base = pts, time_base
        if self.graph is not None:
            self.graph.push(picture)
            painted = self.graph.pull()
            assert isinstance(painted, av.VideoFrame)
            return painted
        if picture.format.name == self.pixel_format:
            return picture
        to_yuv = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
        options = to_yuv if self.pixel_format.startswith("yuv") else {}
        converted = picture.reformat(
            format=self.pixel_format, interpolation=Interpolation.BICUBIC, threads=1, **options
        )
        converted.pts, converted.time_base = pts, time_base
        return converted


def _palette_graph(stream: av.VideoStream, alpha: bool) -> av.filter.Graph:
    """RGB -> 256 colours, each frame with a palette of its own, so that none waits for those after it."""
    graph = av.filter.Graph()
    pictures = graph.add_buffer(
        width=stream.width,
        height=stream.height,
        format=av.VideoFormat("rgba" if alpha else "rgb24", stream.width, stream.height),
        time_base=stream.codec_context.time_base,
    )
    both = graph.add("split")
    palette = graph.add("palettegen", f"stats_mode=single:reserve_transparent={int(alpha)}")
    painted = graph.add("paletteuse", "new=1:dither=sierra2_4a:alpha_threshold=128")
    pictures.link_to(both)
    both.link_to(palette, 0, 0)
    both.link_to(painted, 1, 0)
    palette.link_to(painted, 0, 1)
    painted.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
