"""Sound that cannot be copied: decoded, put in its exact place, cut to the sample, encoded.

Shape legend: n samples, c channels; blocks are `[n, c]` in a packed format.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags

from .packets import Piece, Timed

# Seconds by which sound may leave the place that its times say before it is put back there. Containers blur times, so
# less would tear sound apart that has no hole; more would be seen (ITU-R BT.1359 finds 45 ms early just noticeable).
DRIFT = Fraction(3, 100)
# Seconds without sound that are believed; a longer leap is a broken clock's, and the sound continues.
_LONGEST_HOLE = 1800
# Seconds that counted times may lie from those of the packets where a decoder tells none.
FAR = Fraction(1, 2)
# Seconds by which containers round times: Matroska, FLV and ASF count milliseconds.
_ROUNDED = Fraction(2, 1000)
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_OPUS_LAYOUTS = ("mono", "stereo", "5.1")
_AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1")
# What a file means that only says how many channels it has: the order that WAV and its kin use.
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_SPEAKERS = {"FL", "FR", "FC", "LFE", "BL", "BR", "BC", "SL", "SR"}
BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How sound is encoded; `format` is the encoder's sample format."""

    codec: str
    rate: int
    layout: str
    format: str
    bit_rate: int

    @property
    def packed(self) -> str:
        """The format of blocks: planes of more than seven channels are beyond PyAV's arrays."""
        return self.format.removesuffix("p")

    def set(self, context: av.AudioCodecContext) -> None:
        context.sample_rate, context.layout, context.format = self.rate, self.layout, self.format
        context.time_base = Fraction(1, self.rate)
        if self.bit_rate:
            context.bit_rate = self.bit_rate


def _encoding_of(codec: str, frame: av.AudioFrame) -> Encoding:
    """How a track that begins with `frame` is encoded by `codec`; AAC takes not every rate and layout."""
    format = av.codec.Codec(codec, "w").audio_formats[0].name
    if codec in ("flac", "alac") and not frame.format.name.startswith(("s16", "u8")):
        format = format.replace("16", "32")
    if codec == "libopus":
        layout = next((name for name in _OPUS_LAYOUTS if name == aac_layout(frame.layout)), "stereo")
        count = len(av.AudioLayout(layout).channels)
        return Encoding(codec=codec, rate=48_000, layout=layout, format=format, bit_rate=count * 96_000)
    if codec != "aac":
        return Encoding(codec=codec, rate=frame.sample_rate, layout=frame.layout.name, format=format, bit_rate=0)
    rate = next((rate for rate in _AAC_RATES if rate >= frame.sample_rate), _AAC_RATES[-1])
    layout = aac_layout(frame.layout)
    # AAC holds at most 6 bits a sample of a channel.
    bit_rate = len(av.AudioLayout(layout).channels) * min(96_000, 6 * rate)
    return Encoding(codec=codec, rate=rate, layout=layout, format=format, bit_rate=bit_rate)


def aac_layout(layout: av.AudioLayout) -> str:
    """The smallest layout of AAC with all of a layout's speakers; sides count as backs. 5.1 if there is none."""
    speakers = {channel.name.replace("SL", "BL").replace("SR", "BR") for channel in layout.channels}
    return next((name for name in _AAC_LAYOUTS if speakers <= _speakers(name)), _AAC_LAYOUTS[-1])


def _speakers(layout: str) -> set[str]:
    return {channel.name for channel in av.AudioLayout(layout).channels}


@dataclass
class DecodedSound:
    """A track's frames with their times in seconds of the source's clock; counts the packets that were broken.

    Args:
        all_channels: keep more than eight, as only plain samples can.
    """

    stream: av.AudioStream
    packets: Sequence[av.Packet]
    all_channels: bool = False
    broken: int = 0

    def frames(self) -> Iterator[tuple[Fraction, av.AudioFrame]]:
        time = None
        for packet in (*self.packets, None):
            if packet is not None and packet.pts is not None:
                due = packet.pts * packet.time_base
                # Decoders that tell no times are followed by counting, unless that leads far away.
                time = due if time is None or abs(due - time) > FAR else time
            try:
                frames = self.stream.codec_context.decode(packet)
            except (av.error.FFmpegError, ValueError):
                self.broken += 1
                continue
            for frame in frames:
                if not frame.samples or not frame.sample_rate:
                    continue
                if frame.pts is not None:
                    time = frame.pts * (frame.time_base or self.stream.time_base or Fraction(1, frame.sample_rate))
                many = self.all_channels and len(frame.layout.channels) > 8
                time = time or Fraction(0)
                yield time, frame if many else with_named_speakers(frame)
                time += Fraction(frame.samples, frame.sample_rate)


def with_named_speakers(frame: av.AudioFrame) -> av.AudioFrame:
    """The frame, for the usual speakers if it does not say for which; of more than eight channels the first two."""
    count = len(frame.layout.channels)
    if count <= 8 and all(channel.name in _SPEAKERS for channel in frame.layout.channels):
        return frame
    packed = frame.format.packed.name
    samples = _samples(av.AudioResampler(format=packed).resample(frame)[0])
    kept = samples if count <= 8 else np.ascontiguousarray(samples[:, :2])
    return _frame(kept, packed, _USUAL_LAYOUTS[kept.shape[1]], frame.sample_rate)


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """`[n, c]` of a frame in a packed format."""
    return frame.to_ndarray().reshape(frame.samples, -1)


def _frame(samples: np.ndarray, packed: str, layout: str, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format=packed, layout=layout)
    frame.sample_rate = rate
    return frame


@dataclass
class _Run:
    """Sound without a hole or a change: its place is that of its beginning, its samples are counted from there."""

    key: tuple[str, str, int]
    start: Fraction
    position: int
    resampler: av.AudioResampler | None
    samples: int = 0

    def takes(self, key: tuple[str, str, int], time: Fraction) -> bool:
        leap = abs(self.start + Fraction(self.samples, key[2]) - time)
        return key == self.key and not DRIFT <= leap <= _LONGEST_HOLE

    def convert(self, frame: av.AudioFrame | None) -> Iterator[tuple[int, np.ndarray]]:
        """(position, block) of the next frame, None for the end of the run."""
        if frame is not None:
            self.samples += frame.samples
            frame.pts = None
        convert = self.resampler.resample if self.resampler is not None else _unchanged
        for part in convert(frame):
            block = _samples(part)
            yield self.position, block
            self.position += len(block)


def _unchanged(frame: av.AudioFrame | None) -> list[av.AudioFrame]:
    return [] if frame is None else [frame]


def _blocks(
    frames: Iterator[tuple[Fraction, av.AudioFrame]], encoding: Encoding, origin: Fraction
) -> Iterator[tuple[int, np.ndarray]]:
    """(position, block) in the encoder's samples from `origin` on; holes and overlaps are as they were."""
    target = (encoding.packed, encoding.layout, encoding.rate)
    run = None
    for time, frame in frames:
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if run is None or not run.takes(key, time):
            if run is not None:
                yield from run.convert(None)
            resampler = None if key == target else av.AudioResampler(*target)
            run = _Run(key, time, round((time - origin) * encoding.rate), resampler)
        yield from run.convert(frame)
    if run is not None:
        yield from run.convert(None)


def _without_holes(
    blocks: Iterator[tuple[int, np.ndarray]], last: int | None, longest_hole: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The samples in `0 .. last`: holes become silence, of what overlaps the first stays."""
    cursor, begun = 0, False
    for position, block in blocks:
        if position < cursor:
            block = block[cursor - position :]
            position = cursor
        if last is not None:
            block = block[: max(0, last - position)]
        if not len(block):
            continue
        if position - cursor > longest_hole:
            raise ValueError("its times leap too far")
        if begun:
            yield from _silence(cursor, position, block)
        yield position, block
        cursor, begun = position + len(block), True


def _silence(start: int, end: int, like: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    value = 128 if like.dtype == np.uint8 else 0
    for position in range(start, end, BLOCK):
        yield position, np.full((min(BLOCK, end - position), like.shape[1]), value, like.dtype)


@dataclass(frozen=True, kw_only=True)
class EncodedSound:
    """A track encoded again, on the result's clock.

    Args:
        broken: packets that could not be decoded.
        channels: that the source has.
    """

    encoding: Encoding
    packets: list[Timed]
    broken: int
    channels: int


def encode_again(decoded: DecodedSound, codec: str, piece: Piece) -> EncodedSound | None:
    """Encode what sounds in the piece, at its exact place; None if nothing does.

    Raises:
        ValueError, av.error.FFmpegError: where the encoder does not take such sound.
    """
    frames = decoded.frames()
    first = next(frames, None)
    if first is None:
        return None
    channels = len(decoded.stream.codec_context.layout.channels)
    encoding = _encoding_of(codec, first[1])
    last = None if piece.end is None else round(piece.end * encoding.rate)
    longest_hole = _LONGEST_HOLE * encoding.rate
    blocks = _blocks(itertools.chain([first], frames), encoding, piece.origin)
    packets = list(_encode(_without_holes(blocks, last, longest_hole), encoding))
    if not packets:
        return None
    return EncodedSound(encoding=encoding, packets=packets, broken=decoded.broken, channels=channels)


def _encode(blocks: Iterator[tuple[int, np.ndarray]], encoding: Encoding) -> Iterator[Timed]:
    context = av.CodecContext.create(encoding.codec, "w")
    assert isinstance(context, av.AudioCodecContext)
    encoding.set(context)
    context.flags |= Flags.global_header
    time_base = Fraction(1, encoding.rate)
    for position, block in blocks:
        frame = _frame(np.ascontiguousarray(block), encoding.packed, encoding.layout, encoding.rate)
        frame.pts, frame.time_base = position, time_base
        yield from (_timed(packet, time_base) for packet in context.encode(frame))
    yield from (_timed(packet, time_base) for packet in context.encode(None))


def _timed(packet: av.Packet, time_base: Fraction) -> Timed:
    pts = packet.pts or 0
    dts = pts if packet.dts is None else packet.dts
    return Timed(packet=packet, pts=pts, dts=dts, duration=packet.duration or 0, time_base=time_base)


def spans(stream: av.AudioStream, packets: Sequence[av.Packet]) -> list[tuple[Fraction, Fraction]]:
    """(start, end) of packets with times, in seconds; where a container rounded them, as they were before.

    A packet without a duration lasts as long as its codec's packets do, or until the next.
    """
    starts = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
    usual = Fraction(stream.codec_context.frame_size, stream.rate) if stream.rate else Fraction(0)
    exact: list[tuple[Fraction, Fraction]] = []
    for packet, start, following in zip(packets, starts, [*starts[1:], None], strict=True):
        duration = (packet.duration or 0) * packet.time_base or usual
        if not duration and following is not None:
            duration = max(following - start, Fraction(0))
        if usual and abs(duration - usual) < _ROUNDED:
            duration = usual
        if exact and abs(start - exact[-1][1]) < _ROUNDED:
            start = exact[-1][1]
        exact.append((start, start + duration))
    return exact
