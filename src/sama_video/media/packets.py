"""The encoded packets of a source's tracks, on one clock: that of the result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av

from .timing import JUMPING_FORMATS, RESTART, starts_again

# Seconds of packets before the piece that are kept: decoders need a few to settle.
_WARM_UP = Fraction(5)
# Seconds that tracks of one file may lie apart in it.
_INTERLEAVING = Fraction(30)
_FALLBACK = Fraction(1, 90_000)  # a stream without a clock
# Only these formats have an index to seek by, and a clock that never begins again.
_INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"


# What reading a broken or hostile track may end in.
UNUSABLE = (av.error.FFmpegError, ValueError, OSError, LookupError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The piece of a source that a result shows.

    Args:
        origin: the source's time, in seconds of its own clock, at which the first picture is shown.
        end: seconds from there at which the piece ends; None for "with the source".
        from_start: nothing was cut off before the first picture.
    """

    origin: Fraction
    end: Fraction | None = None
    from_start: bool = True


@dataclass(frozen=True, kw_only=True)
class Timed:
    """An encoded packet and when it is due in the result, in ticks of `time_base`."""

    packet: av.Packet
    pts: int
    dts: int
    duration: int
    time_base: Fraction

    @property
    def time(self) -> Fraction:
        return self.pts * self.time_base

    @property
    def end(self) -> Fraction:
        return (self.pts + self.duration) * self.time_base

    def mux(self, container: av.container.OutputContainer, stream: av.stream.Stream) -> None:
        packet = self.packet
        before = (packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration)
        _set(packet, stream, self.time_base, self.pts, self.dts, self.duration)
        container.mux(packet)
        _set(packet, *before)  # muxers change them, and the packet may be written or decoded again


def _set(packet: av.Packet, stream: av.stream.Stream | None, time_base: Fraction | None, *times: int | None) -> None:
    # What a packet never had it cannot be given back, and needs not.
    if stream is not None:
        packet.stream = stream
    if time_base is not None:
        packet.time_base = time_base
    packet.pts, packet.dts, packet.duration = times


@dataclass
class _Clock:
    """When one stream's clock began and ended, again each time it was set back."""

    jumps: bool
    starts: list[Fraction] = field(default_factory=list)
    ends: list[Fraction] = field(default_factory=list)
    is_new: bool = True  # the next packet begins a run
    first: Fraction | None = None  # decoding time of the run
    highest: Fraction | None = None

    def follow(self, packet: av.Packet) -> int:
        """Which run of the clock a packet belongs to."""
        times = [None if ticks is None else ticks * packet.time_base for ticks in (packet.pts, packet.dts)]
        shown, decoded = times[0] if times[0] is not None else times[1], times[1]
        if shown is None:
            return max(0, len(self.starts) - 1)
        if self.is_new or self._begins_again(shown, decoded):
            self.starts.append(shown)
            self.ends.append(shown)
            self.is_new, self.first, self.highest = False, decoded, decoded
        if decoded is not None:
            self.first = decoded if self.first is None else self.first
            self.highest = decoded if self.highest is None else max(self.highest, decoded)
        self.starts[-1] = min(self.starts[-1], shown)
        self.ends[-1] = max(self.ends[-1], shown + (packet.duration or 0) * packet.time_base)
        return len(self.starts) - 1

    def _begins_again(self, shown: Fraction, decoded: Fraction | None) -> bool:
        # Pictures are not in the order in which they are shown, and the first of them may have no other times.
        if decoded is None or self.first is None or self.highest is None:
            return self.ends[-1] - shown > RESTART
        return starts_again(decoded, self.first, self.highest, self.jumps)


def gather_packets(
    parts: Sequence[av.container.InputContainer],
    streams: Sequence[av.stream.Stream],
    picture: av.VideoStream,
    piece: Piece,
) -> dict[int, list[av.Packet]]:
    """The packets that the piece may need, by their stream's index, their times on the clock of the first run.

    Reading stops where the file does, or breaks off.

    Args:
        parts: of a file that was joined; one for any other.
        streams: of the first part; those of the others are told by their places.
    """
    container = parts[0]
    jumps = container.format.name in JUMPING_FORMATS
    clocks = {stream.index: _Clock(jumps and stream.type != "subtitle") for stream in (picture, *streams)}
    found: dict[int, list[tuple[int, av.Packet]]] = {stream.index: [] for stream in streams}
    earliest = piece.origin - _WARM_UP
    if container.format.name == _INDEXED and earliest > _INTERLEAVING and not piece.from_start:
        container.seek(int(earliest / (picture.time_base or _FALLBACK)), stream=picture)
    for part in parts:
        for clock in clocks.values():
            clock.is_new = True
        try:
            for packet in part.demux([part.streams[index] for index in clocks if index < len(part.streams)]):
                run = clocks[packet.stream.index].follow(packet)
                if packet.stream.index in found and packet.size and _may_be_needed(packet, run, earliest, piece):
                    found[packet.stream.index].append((run, packet))
                if run == 0 and piece.end is not None and _all_read(clocks, picture, piece.origin + piece.end):
                    break
        except UNUSABLE:  # cut off or damaged: what is there is used
            pass
    return {index: _on_one_clock(runs, clocks[index], clocks[picture.index]) for index, runs in found.items()}


def _may_be_needed(packet: av.Packet, run: int, earliest: Fraction, piece: Piece) -> bool:
    if run or piece.from_start or packet.stream.type == "subtitle" or packet.pts is None:
        return True
    return (packet.pts + (packet.duration or 0)) * packet.time_base >= earliest


def _all_read(clocks: dict[int, _Clock], picture: av.VideoStream, end: Fraction) -> bool:
    """Whether nothing before `end` can come any more."""
    reached = {index: clock.ends[-1] for index, clock in clocks.items() if clock.ends}
    at = reached.get(picture.index)
    return at is not None and at > end + (1 if min(reached.values()) > end else _INTERLEAVING)


def _on_one_clock(runs: list[tuple[int, av.Packet]], own: _Clock, picture: _Clock) -> list[av.Packet]:
    """Packets of later runs follow those before them as the pictures do."""
    shifts = [Fraction(0)]
    for run in range(1, len(own.starts)):
        leader = picture if run < len(picture.starts) else own
        shifts.append(shifts[-1] + leader.ends[run - 1] - leader.starts[run])
    for run, packet in runs:
        ticks = round(shifts[run] / packet.time_base) if run else 0
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
    return [packet for _, packet in runs]
