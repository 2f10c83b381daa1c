"""The one owner of time: frames in display order, their times strictly increasing, gaps kept, joined files continued.

Containers tell times badly in four ways, and each has one answer here:
- the clock starts again (files joined with `cat`): what follows is shown after what came before;
- packets carry only decoding times (H.264 with B-frames in AVI): frames take these in display order;
- there are no times, or the clock stands still: frames are shown one after the other at the track's rate;
- single times repeat or fall back: those frames are shown between their neighbours.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import av

from .frames import named_rate

# A clock that falls back this far (seconds), or to where its part began, starts again; less is one wrong time.
RESTART = Fraction(1, 2)
# Transport and program streams jump ahead where recordings are joined; FFmpeg's own limit between a jump and a gap.
JUMP = 10
JUMPING_FORMATS = {"mpegts", "mpeg"}
# Formats whose packets carry display times in any case.
_DISPLAY_TIMED = {"mov", "mpegts", "mpeg", "flv"}
# Formats without frames of their own: what is a packet is found in the stream, and may be a field.
_FIELD_FORMATS = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "vc1"}
_FASTEST = 1000  # frames per second that a rate may claim to be believed
_UNKNOWN_RATE = Fraction(25)
_LEADING = 16  # frames, the longest reordering of H.264 and HEVC


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a track's packets say of its frames, learnt without decoding them.

    Args:
        num_frames: that are shown (an edit list hides others); 0 if packets do not tell.
        clock: whose times frames take: their own for display, those of decoding in display order, or none that can
            be used.
        stands: whether there are times, but most frames have the same.
        hides_frames: whether an edit list does.
        has_fields: whether a packet may be half a frame, of an interlaced film.
        joins: how often the clock starts again.
        rate: frames per second, on average.
        jumps: whether a jump ahead is a join too.
    """

    num_frames: int
    clock: Literal["display", "decoding", "none"]
    stands: bool
    hides_frames: bool
    has_fields: bool
    joins: int
    rate: Fraction
    jumps: bool

    @property
    def can_seek(self) -> bool:
        """Whether a time in the file is the time that is shown."""
        return self.clock == "display" and self.joins == 0


@dataclass(frozen=True, slots=True)
class _Tick:
    pts: int | None
    dts: int | None
    is_shown: bool


def _format(container: av.container.InputContainer) -> str:
    return container.format.name.split(",")[0]


def read_timeline(container: av.container.InputContainer, stream: av.VideoStream) -> Timeline:
    """Looks through a track, from the index in the header where that is complete (MP4), else packet by packet."""
    kind = _format(container)
    entries = stream.index_entries
    if kind == "mov" and 0 < stream.frames <= len(entries):
        ticks = [_Tick(None, entry.timestamp, not entry.is_discard) for entry in entries]
        has_display_times = True
    else:
        ticks = _from_first_key_frame(_ticks(container, stream))
        has_display_times = any(tick.pts is not None for tick in ticks)
    time_base = Fraction(stream.time_base or Fraction(1, 90_000))
    decoding = [tick.dts for tick in ticks if tick.dts is not None]
    stands = len(decoding) > 1 and len(set(decoding)) <= len(decoding) / 2
    joins = _count_joins((time * time_base for time in decoding), kind in JUMPING_FORMATS)
    stands = stands and joins == 0
    if not has_display_times or stands:
        clock = "none"
    elif kind not in _DISPLAY_TIMED and stream.codec_context.has_b_frames and _only_decoding_times(ticks):
        clock = "decoding"
    else:
        clock = "display"
    return Timeline(
        num_frames=sum(tick.is_shown for tick in ticks),
        clock=clock,
        stands=stands,
        hides_frames=not all(tick.is_shown for tick in ticks),
        has_fields=kind in _FIELD_FORMATS,
        joins=joins,
        rate=_rate(stream, decoding if joins == 0 and not stands else [], time_base),
        jumps=kind in JUMPING_FORMATS,
    )


def join_timelines(timelines: Sequence[Timeline]) -> Timeline:
    """The timeline of parts that are shown one after the other."""
    joins = sum(timeline.joins for timeline in timelines) + len(timelines) - 1
    return replace(timelines[0], num_frames=sum(timeline.num_frames for timeline in timelines), joins=joins)


def _ticks(container: av.container.InputContainer, stream: av.VideoStream) -> list[tuple[_Tick, bool]]:
    """Every packet up to the end, or up to where the file is broken, and whether it is a key frame."""
    is_vp8 = stream.codec_context.name in ("vp8", "libvpx")
    ticks = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                continue  # the mark of the end
            # VP8 has packets that only prepare other frames; a bit of their first byte says so (RFC 6386, 9.1).
            hidden = packet.is_discard or (is_vp8 and packet.size > 0 and not bytes(packet)[0] & 0x10)
            ticks.append((_Tick(packet.pts, packet.dts, not hidden), packet.is_keyframe))
    except (av.error.FFmpegError, OSError):
        pass  # decoding will meet it, and says so
    return ticks


def _from_first_key_frame(ticks: list[tuple[_Tick, bool]]) -> list[_Tick]:
    """Without what cannot be decoded at the beginning of a recording that was cut anywhere.

    That is what stands before the first key frame, and what follows it but is shown before it.
    """
    first = next((index for index, (_, is_key) in enumerate(ticks) if is_key), 0)
    rest = [tick for tick, _ in ticks[first:]]
    begin = rest[0].pts if rest else None
    leading = [tick for tick in rest[:_LEADING] if begin is None or tick.pts is None or tick.pts >= begin]
    return leading + rest[_LEADING:]


def _only_decoding_times(ticks: list[_Tick]) -> bool:
    """FFmpeg makes display times up where a container has none: each then follows its decoding time alike."""
    known = [(tick.pts, tick.dts) for tick in ticks if tick.pts is not None and tick.dts is not None]
    return len(known) > 2 and len({pts - dts for pts, dts in known}) == 1


def _count_joins(times: Iterable[Fraction], jumps: bool) -> int:
    count, first, last = 0, None, None
    for time in times:
        if first is None or last is None:
            first = time
        elif starts_again(time, first, last, jumps):
            count, first = count + 1, time
        last = time
    return count


def starts_again(time: Fraction, first: Fraction, last: Fraction, jumps: bool) -> bool:
    """Whether a clock that began at `first` and stood at `last` has started again at `time`; all in seconds."""
    return last - time > RESTART or (time < last and time <= first) or (jumps and time - last > JUMP)


def _rate(stream: av.VideoStream, decoding: list[int], time_base: Fraction) -> Fraction:
    """The announced average rate if it can be true, else what the packets say, else 25."""
    announced = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    rates = [named_rate(Fraction(rate)) for rate in announced if rate and 0 < rate <= _FASTEST]
    span = (max(decoding) - min(decoding)) * time_base if len(decoding) > 1 else Fraction(0)
    if (stream.average_rate and 0 < stream.average_rate <= _FASTEST) or not span:
        return rates[0] if rates else _UNKNOWN_RATE
    return named_rate((len(decoding) - 1) / span)


class Clock:
    """Gives frames, in display order, their times: seconds from the first frame, strictly increasing.

    Args:
        origin: seconds at which the track's own clock shows its first frame.
    """

    def __init__(self, timeline: Timeline, origin: Fraction):
        self.timeline, self.origin, self.offset = timeline, origin, -origin
        self.step = 1 / timeline.rate
        self.decoding_times: deque[Fraction] = deque()
        self.count = 0
        self.first: Fraction | None = None  # of the part of a joined file
        self.last_read: Fraction | None = None
        self.last_shown = Fraction(0)
        self.last_duration = self.step
        self.notes: list[str] = []

    def expect(self, decoding_time: Fraction) -> None:
        """A packet was sent to the decoder that will become a frame."""
        self.decoding_times.append(decoding_time)

    def time_of(self, read: Fraction | None, duration: Fraction) -> Fraction:
        """The time of the next frame; `read` is what the file says, `duration` the seconds that it lasts."""
        if self.timeline.clock == "none" or read is None:
            shown = self.count * self.step
        elif self.timeline.clock == "decoding":
            shown = self._in_display_order()
        else:
            shown = self._continued(read)
        self.count += 1
        self.last_shown, self.last_duration = shown, duration or self.step
        return shown

    def _in_display_order(self) -> Fraction:
        """The k-th frame shown takes the k-th decoding time: frames and packets are as many."""
        time = self.decoding_times.popleft() if self.decoding_times else None
        if self.count == 0:
            self.first = time
            return Fraction(0)
        after = self.last_shown + self.step
        return after if time is None or self.first is None else max(time - self.first, self.last_shown + self.step / 2)

    def _continued(self, read: Fraction) -> Fraction:
        if self.first is None or self.last_read is None:
            self.first = self.last_read = read
            return read + self.offset
        if starts_again(read, self.first, self.last_read, self.timeline.jumps):
            shown = self.last_shown + self.last_duration
            self.offset, self.first, self.last_read = shown - read, read, read
            self._note(f"the clock starts again at {float(shown):.2f} s: the parts were joined there")
            return shown
        self.last_read = max(read, self.last_read)
        if read + self.offset > self.last_shown:
            return read + self.offset
        self._note("some frames have times that do not increase: they are shown between their neighbours")
        return self.last_shown + self.step / 2

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
