"""What a file holds beside its pictures: tracks of sound and subtitles, chapters, its title; ready to be written."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av

from .packets import Timed
from .sound import EncodedSound

AddStream = Callable[[av.container.OutputContainer], av.stream.Stream]


@dataclass(frozen=True, kw_only=True)
class Track:
    """One track: what it is called, its packets on the result's clock, how its stream is made in a container."""

    label: str
    kind: str
    packets: list[Timed]
    add_to: AddStream
    metadata: dict[str, str] = field(default_factory=dict)
    disposition: int = 0

    def open_in(self, container: av.container.OutputContainer) -> av.stream.Stream:
        stream = self.add_to(container)
        stream.metadata.update(self.metadata)
        stream.disposition = self.disposition  # pyright: ignore[reportAttributeAccessIssue] (an int flag)
        return stream


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Everything that goes into a result beside the pictures.

    Args:
        tracks: in the source's order.
        chapters: as PyAV has them.
        metadata: of the file.
        lead: seconds that the first picture comes after the beginning of the file, since sound begins before it.
        notes: what was left out or encoded again, a sentence each.
        source: kept open as long as tracks are copied from it.
    """

    tracks: list[Track] = field(default_factory=list)
    chapters: list[dict] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    lead: Fraction = Fraction(0)
    notes: list[str] = field(default_factory=list)
    source: av.container.InputContainer | None = None

    def only(self, track: Track, packets: list[Timed]) -> "Tracks":
        """One of the tracks, with so many of its packets."""
        return replace(self, tracks=[replace(track, packets=packets)], chapters=[], metadata={})

    def __enter__(self) -> "Tracks":
        return self

    def __exit__(self, *_: object) -> None:
        if self.source is not None:
            self.source.close()


class TracksWriter:
    """Writes tracks into one container, a little at a time, so that sound and pictures lie side by side."""

    def __init__(self, tracks: Tracks, container: av.container.OutputContainer):
        self.container = container
        streams = [track.open_in(container) for track in tracks.tracks]
        container.metadata.update(tracks.metadata)
        if tracks.chapters:
            container.set_chapters(tracks.chapters)  # pyright: ignore[reportArgumentType] (typed dictionaries)
        pairs = [
            (timed, stream) for track, stream in zip(tracks.tracks, streams, strict=True) for timed in track.packets
        ]
        # Stable: packets of one track keep their order.
        self._pending = sorted(pairs, key=lambda pair: pair[0].dts * pair[0].time_base)
        self._done = 0

    def write_until(self, time: Fraction | None) -> None:
        """Packets that are due by `time`; None for all that are left."""
        while self._done < len(self._pending):
            timed, stream = self._pending[self._done]
            if time is not None and timed.dts * timed.time_base > time:
                return
            timed.mux(self.container, stream)
            self._done += 1


def encoded_stream(sound: EncodedSound) -> AddStream:
    """How a stream for packets of another encoder is made: with an encoder of the same settings, never used."""

    def add_to(container: av.container.OutputContainer) -> av.stream.Stream:
        stream = container.add_stream(sound.encoding.codec, rate=sound.encoding.rate)
        assert isinstance(stream, av.AudioStream)
        sound.encoding.set(stream.codec_context)
        return stream

    return add_to
