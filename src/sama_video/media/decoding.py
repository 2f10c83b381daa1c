"""A video track's frames as FFmpeg decodes them: which track, which decoder, repeated frames, fields woven together."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition

from ..system.errors import UserError

# FFmpeg's own decoders of these leave the alpha plane out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_DEINTERLACERS = ("bwdif", "yadif")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame as FFmpeg gives it; `time` in seconds of the track's own clock, None if it has none."""

    frame: av.VideoFrame
    time: Fraction | None
    duration: Fraction


def choose_stream(container: av.container.InputContainer, path: Path) -> tuple[av.VideoStream, list[str]]:
    """The track to read, and notes on others.

    Raises:
        UserError: if there is none, or none that can be decoded. Cover pictures are none.
    """
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not videos:
        raise UserError(f"{path} has no video stream; give a video or an image")
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        raise UserError(f"{path} is coded in a way that this FFmpeg cannot decode; convert it to H.264 first")
    chosen = next((stream for stream in decodable if stream.disposition & Disposition.default), decodable[0])
    others = len(videos) - 1
    return chosen, [f"only one of {others + 1} video tracks was read"] if others else []


class Decoder:
    """Decodes one track of an open container; the settings are made before the first packet.

    Args:
        max_pixels: that a frame may have.

    Attributes:
        damaged: what is damaged, if anything is, known when all frames were taken.
        notes: what was done to the frames.
        is_interlaced: whether a frame so far was.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, max_pixels: int):
        self.container, self.stream = container, stream
        self.damaged: str | None = None
        self.notes: list[str] = []
        self.is_interlaced = False
        self.time_base = Fraction(stream.time_base or Fraction(1, 90_000))
        self.context = self._choose_context()
        self.context.thread_type = "AUTO"
        self.context.options = {**self.context.options, "max_pixels": str(max_pixels)}

    def _choose_context(self) -> av.VideoCodecContext:
        name = self.stream.codec_context.name
        tags = {key.lower(): value for key, value in self.stream.metadata.items()}
        if tags.get("alpha_mode") != "1" or name not in _ALPHA_DECODERS:
            return self.stream.codec_context
        try:
            context = av.CodecContext.create(_ALPHA_DECODERS[name], "r")
        except av.codec.codec.UnknownCodecError:
            self.notes.append("its transparency could not be read: this FFmpeg has no libvpx")
            return self.stream.codec_context
        assert isinstance(context, av.VideoCodecContext)
        return context

    def frames(self, expect: Callable[[Fraction], None] = lambda _: None) -> Iterator[Decoded]:
        """Frames until the end, or until nothing more decodes, in display order, deinterlaced where they are not whole.

        Args:
            expect: called with the decoding time of every packet that becomes a frame.
        """
        deinterlacer = Deinterlacer()
        for decoded in self._with_repeats(expect):
            self.is_interlaced = self.is_interlaced or decoded.frame.interlaced_frame
            yield from deinterlacer.feed(decoded)
            if deinterlacer.note is not None and deinterlacer.note not in self.notes:
                self.notes.append(deinterlacer.note)
        yield from deinterlacer.rest()

    def _with_repeats(self, expect: Callable[[Fraction], None]) -> Iterator[Decoded]:
        """An empty packet says that the frame before it is shown once more."""
        repeats: deque[tuple[Fraction, Fraction]] = deque()
        last: Decoded | None = None
        for frame in self._decode(expect, repeats):
            time = None if frame.pts is None else frame.pts * self.time_base
            while last is not None and repeats and (time is None or repeats[0][0] < time):
                yield Decoded(last.frame, *repeats.popleft())
            last = Decoded(frame, time, Fraction(frame.duration or 0) * self.time_base)
            yield last
        while last is not None and repeats:
            yield Decoded(last.frame, *repeats.popleft())

    def _decode(
        self, expect: Callable[[Fraction], None], repeats: deque[tuple[Fraction, Fraction]]
    ) -> Iterator[av.VideoFrame]:
        count = skipped = 0
        last_is_corrupt = lost_data = False
        try:
            for packet in self.container.demux(self.stream):
                is_end = packet.size == 0 and packet.pts is None and packet.dts is None
                last_is_corrupt = packet.is_corrupt or (is_end and last_is_corrupt)
                # Where streams were joined their packets' counters jump, and nothing is lost.
                lost_data = lost_data or packet.is_corrupt
                if packet.size == 0 and not is_end:
                    time = packet.pts if packet.pts is not None else packet.dts
                    assert time is not None
                    repeats.append((time * self.time_base, Fraction(packet.duration or 0) * self.time_base))
                    continue
                if packet.dts is not None:
                    expect(packet.dts * self.time_base)
                try:
                    frames = self.context.decode(packet if packet.size else None)
                except av.error.InvalidDataError:
                    if count:
                        raise
                    skipped += 1  # recordings begin anywhere: nothing decodes before the first key frame
                    continue
                for frame in frames:
                    if lost_data and frame.is_corrupt:
                        self._damage(f"has lost data after {count} frames")
                    count += 1
                    yield frame
        except av.error.EOFError:
            pass  # a decoder that was drained already
        except (av.error.FFmpegError, OSError) as error:
            self._damage(f"does not decode after {count} frames ({error.strerror})")
        if last_is_corrupt:
            self._damage(f"is cut off after {count} frames")
        if skipped and count:
            self.notes.append(f"its beginning was left out: {skipped} packets do not decode")

    def _damage(self, text: str) -> None:
        self.damaged = self.damaged or text


class Deinterlacer:
    """Makes whole frames of interlaced ones, one for each; frames that are not flagged as interlaced stay as they are.

    A frame needs its neighbours, so frames come out one later than they go in.
    """

    def __init__(self) -> None:
        self.graph: av.filter.Graph | None = None
        self.shape: tuple | None = None
        self.waiting: deque[Decoded] = deque()
        self.note: str | None = None

    def feed(self, decoded: Decoded) -> Iterator[Decoded]:
        frame = decoded.frame
        shape = (frame.width, frame.height, frame.format.name)
        if self.graph is not None and shape != self.shape:
            yield from self.rest()
        if self.graph is None and frame.interlaced_frame:
            self._start(frame, shape)
        if self.graph is None:
            yield decoded
            return
        self.waiting.append(decoded)
        self.graph.vpush(frame)
        yield from self._ready()

    def rest(self) -> Iterator[Decoded]:
        """What still waits; the next frame begins again."""
        if self.graph is not None:
            self.graph.vpush(None)
            yield from self._ready()
        yield from self.waiting
        self.waiting.clear()
        self.graph = None

    def _start(self, frame: av.VideoFrame, shape: tuple) -> None:
        name = next((name for name in _DEINTERLACERS if name in av.filter.filters_available), None)
        if name is None:
            self.note = "it is interlaced and stays so: this FFmpeg has no filter against it"
            return
        graph = av.filter.Graph()
        time_base = frame.time_base or Fraction(1, 90_000)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
        filtering = graph.add(name, "mode=send_frame:parity=auto:deint=interlaced")
        graph.link_nodes(source, filtering, graph.add("buffersink")).configure()
        self.graph, self.shape, self.note = graph, shape, "deinterlaced"

    def _ready(self) -> Iterator[Decoded]:
        assert self.graph is not None
        while self.waiting:
            try:
                frame = self.graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            came = self.waiting.popleft()  # one comes out for each that went in, in order
            yield Decoded(frame, came.time, came.duration)
