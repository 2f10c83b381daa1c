"""Subtitles of words on their way into another container; their times move and are cut with the clip."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from .packets import Timed

MILLISECOND = Fraction(1, 1000)
TEXT_CODECS = {"mov_text", "subrip", "ass", "ssa", "webvtt", "text", "microdvd", "subviewer", "subviewer1", "realtext"}
# What FFmpeg's decoders put before the words of an event: order, layer, style, name, margins, effect.
_LINE_START = b"0,0,Default,,0,0,0,,"


@dataclass(frozen=True)
class Line:
    """Words (an ASS event's, with its marks) that are shown from `start` to `end` seconds."""

    start: Fraction
    end: Fraction
    words: bytes


def read_lines(stream: SubtitleStream, packets: Sequence[av.Packet]) -> list[Line]:
    """A track's lines in seconds of the source's clock; one without a duration stays until the next."""
    lines: list[Line] = []
    for packet, following in zip(packets, [*packets[1:], None], strict=True):
        words = _words(stream, packet)
        if packet.pts is None or not words:
            continue
        start = packet.pts * packet.time_base
        end = start + (packet.duration or 0) * packet.time_base
        if end == start and following is not None and following.pts is not None:
            end = following.pts * following.time_base
        lines.append(Line(start, end, words))
    return lines


def _words(stream: SubtitleStream, packet: av.Packet) -> bytes:
    decoded = stream.codec_context.decode2(packet)
    rects = decoded.rects if decoded is not None else ()
    # Eight commas stand before the words.
    parts = [rect.ass.split(b",", 8)[-1].strip() for rect in rects if isinstance(rect, AssSubtitle)]
    return b"\\N".join(part for part in parts if part)


def cut_lines(lines: Sequence[Line], origin: Fraction, end: Fraction | None, earliest: Fraction) -> list[Line]:
    """Lines on the result's clock, as far as they are shown in `earliest .. end`."""
    cut = []
    for line in lines:
        start, stop = max(line.start - origin, earliest), line.end - origin
        stop = stop if end is None else min(stop, end)
        if stop > start:
            cut.append(Line(start, stop, line.words))
    return cut


def one_at_a_time(lines: Sequence[Line]) -> Iterator[Line]:
    """The same words on the screen at every time, never two lines at once: MP4 shows one after the other."""
    moments = sorted({moment for line in lines for moment in (line.start, line.end)})
    for start, end in itertools.pairwise(moments):
        shown = [line.words for line in lines if line.start <= start and line.end >= end]
        if shown:
            yield Line(start, end, b"\\N".join(shown))


def encode_lines(lines: Sequence[Line], codec: str, header: bytes | None) -> list[Timed]:
    """Packets of a text codec; `header` is the style that the decoder found."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, SubtitleCodecContext)
    context.subtitle_header = header
    packets = []
    for line in lines:
        start, end = (round(time / MILLISECOND) for time in (line.start, line.end))
        if end > start:
            packet = context.encode_subtitle(SubtitleSet.create(_LINE_START + line.words, 0, end - start))
            packets.append(Timed(packet=packet, pts=start, dts=start, duration=end - start, time_base=MILLISECOND))
    return packets
