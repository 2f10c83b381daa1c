"""Which tracks of a source go into a result, and how: copied, encoded again, or left out with a note.

Everything that can fail is done here, before the pictures are made: a rehearsal writes each track with a few black
pictures by the very writer of the result, and reads it back.

Times of the result count from its first picture. Sound that begins before it is cut there if the clip was cut, or if
it is shorter than `_SHORT_LEAD` (an encoder's lead-in, more often than not); else the pictures begin later.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.subtitles.stream import SubtitleStream

from ..system.errors import UserError
from ..system.files import FULL
from .codecs import PictureCoding
from .containers import (
    CONTAINER_NAMES,
    COPIED_SUBTITLES,
    LOSSY_SOUND,
    QUICKTIME_LANGUAGES,
    WRITTEN_SUBTITLES,
    container_of,
    holders,
    sound_codecs,
)
from .decoding import choose_stream
from .opening import Part, joined_matroska, open_container
from .packets import UNUSABLE, Piece, Timed, gather_packets
from .reader import Frame
from .sound import DecodedSound, encode_again, spans
from .subtitles import TEXT_CODECS, cut_lines, encode_lines, one_at_a_time, read_lines
from .tracks import AddStream, Track, Tracks, encoded_stream
from .writer import VideoWriter

_SHORT_LEAD = Fraction(1, 10)
# More sound than this before the first picture is a broken clock.
_LONGEST_LEAD = Fraction(10)
# Seconds of copied sound before its beginning that are written and hidden, for decoders to settle.
_PREROLL = Fraction(1, 10)
# Seconds by which a container may round a time.
_ROUNDING = Fraction(3, 1000)
FINE = Fraction(1, 90_000)
_TAGS = {
    *("title", "artist", "album", "album_artist", "composer", "genre", "comment", "description", "synopsis"),
    *("copyright", "date", "creation_time", "show", "episode_id", "network", "keywords", "location"),
}
_TRACK_TAGS = {"language", "title", "handler_name"}
_USUAL_HANDLERS = {"SoundHandler", "SubtitleHandler", "VideoHandler"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a result's pictures are like: (height, width), frames a second, the clock of their times, the encoding."""

    size: tuple[int, int]
    fps: Fraction
    time_base: Fraction
    coding: PictureCoding


class _LeftOut(Exception):
    """Why a track cannot come along, to be read after "left out: NAME"."""


def carry_tracks(path: Path, output: Path, picture: Picture, piece: Piece) -> Tracks:
    """All tracks of `path` that `output` can hold, ready to be written; `notes` names the others.

    Raises:
        UserError: if not even the pictures can be written.
    """
    container = container_of(output)
    parts = _open(path)
    tracks = _tracks_of(parts, path, container, picture, piece) if parts else Tracks()
    try:
        _rehearse(tracks, container, picture)
    except UserError:
        with tracks:  # closes the source
            raise
    return tracks


def _open(path: Path) -> list[av.container.InputContainer]:
    """The source, in its parts if it was joined; none for pictures that move, which FFmpeg may not know."""
    try:
        joined = joined_matroska(path)
        parts = [open_container(path, part=Part(path, *part)) for part in joined] or [open_container(path)]
    except UserError:
        return []
    return parts if parts[0].streams.video else []


def _tracks_of(
    parts: list[av.container.InputContainer], path: Path, container: str, picture: Picture, piece: Piece
) -> Tracks:
    source = parts[0]
    shown, _ = choose_stream(source, path)
    sounds, subtitles = list(source.streams.audio), list(source.streams.subtitles)
    packets = gather_packets(parts, [s for s in (*sounds, *subtitles) if s.codec_context], shown, piece)
    lead = _lead([packets[s.index] for s in sounds if s.index in packets], picture, piece)
    tracks = Tracks(
        metadata={tag.lower(): text for tag, text in source.metadata.items() if tag.lower() in _TAGS},
        lead=lead,
        source=source,
        chapters=_chapters(source, piece, lead),
        notes=_others_left_out(source, shown),
    )
    # Times of tracks count from the beginning of the result's file.
    moved = replace(piece, origin=piece.origin - lead, end=None if piece.end is None else piece.end + lead)
    carrier = _Carrier(container, picture, moved, tracks, {s.index: n for n, s in _numbered(source)})
    for stream in (*sounds, *subtitles):
        carrier.carry(stream, packets.get(stream.index, []))
    return tracks


def _is_cover(stream: av.stream.Stream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _numbered(source: av.container.InputContainer) -> list[tuple[int, av.stream.Stream]]:
    """Streams with their number among those of their kind."""
    seen: dict[str, int] = {}
    numbered = []
    for stream in source.streams:
        seen[stream.type] = seen.get(stream.type, 0) + 1
        numbered.append((seen[stream.type], stream))
    return numbered


def _lead(sounds: list[list[av.Packet]], picture: Picture, piece: Piece) -> Fraction:
    """Seconds of sound to keep before the first picture, a whole number of pictures long."""
    begins = [_audible(packets[0]) - piece.origin for packets in sounds if packets and packets[0].pts is not None]
    before = -min(begins, default=Fraction(0))
    if not piece.from_start or not _SHORT_LEAD < before < _LONGEST_LEAD:
        return Fraction(0)
    return ceil(before * picture.fps) / picture.fps


def _audible(packet: av.Packet) -> Fraction:
    """When a track's first packet is heard: its decoder may be told to drop an encoder's lead-in."""
    skipped = 0
    if packet.has_sidedata("skip_samples") and packet.stream.rate:
        skipped = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[:4], "little")
    return (packet.pts or 0) * packet.time_base + Fraction(skipped, packet.stream.rate or 1)


def _chapters(source: av.container.InputContainer, piece: Piece, lead: Fraction) -> list[dict]:
    kept = []
    for chapter in source.chapters():
        time_base = chapter["time_base"] or Fraction(1, av.time_base)
        start, end = (chapter[key] * time_base - piece.origin for key in ("start", "end"))
        end = end if piece.end is None else min(end, piece.end)
        start = max(start, -lead)
        if end > start:
            times = {"start": round((start + lead) * 1000), "end": round((end + lead) * 1000)}
            kept.append({**chapter, **times, "id": len(kept) + 1, "time_base": Fraction(1, 1000)})
    return kept


def _others_left_out(source: av.container.InputContainer, shown: av.VideoStream) -> list[str]:
    """Notes about what is neither sound nor subtitles."""
    notes = []
    for number, stream in _numbered(source):
        if stream.type == "video" and stream.index != shown.index:
            notes.append("left out: the cover picture" if _is_cover(stream) else f"left out: video track {number}")
    for kind, name in (("data", "data tracks"), ("attachment", "attachments"), ("unknown", "tracks of no known kind")):
        streams = [s for s in source.streams if s.type == kind and not _is_chapters(s)]
        if streams:
            notes.append(f"left out: {len(streams)} {name} ({', '.join(dict.fromkeys(map(_what, streams)))})")
    return notes


def _is_chapters(stream: av.stream.Stream) -> bool:
    """Chapters of MP4 are also a track, which FFmpeg turns off."""
    return stream.discard == av.stream.Discard.all and bool(stream.container.chapters())


def _what(stream: av.stream.Stream) -> str:
    name = stream.metadata.get("filename") or stream.metadata.get("handler_name", "").strip()
    return name or getattr(stream, "name", None) or "unnamed"


@dataclass
class _Carrier:
    """Puts tracks, one after the other, into `tracks`, or a note why not."""

    container: str
    picture: Picture
    piece: Piece
    tracks: Tracks
    numbers: dict[int, int]

    def carry(self, stream: av.stream.Stream, packets: list[av.Packet]) -> None:
        kind = "sound" if stream.type == "audio" else "subtitle"
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
        words = [codec, *([stream.language] if stream.language not in (None, "und") else [])]
        label = f"{kind} track {self.numbers[stream.index]} ({', '.join(words)})"
        try:
            if stream.codec_context is None:
                raise _LeftOut("nothing here knows its codec")
            make = self._sound if kind == "sound" else self._subtitle
            self.tracks.tracks.append(make(stream, packets, codec, label))
        except _LeftOut as reason:
            self.tracks.notes.append(f"left out: {label}, {reason}")

    # 1. Sound

    def _sound(self, stream: av.AudioStream, packets: list[av.Packet], codec: str, label: str) -> Track:
        if not packets:
            raise _LeftOut("it is empty")
        ways, problem = sound_codecs(codec, self.container), None
        if not ways:
            raise _LeftOut(f"{CONTAINER_NAMES[self.container]} holds no sound")
        for way in ways:
            try:
                if way == "copy":
                    track, remarks = self._copied_sound(stream, packets, label), []
                else:
                    track, remarks = self._encoded_sound(stream, packets, way, codec, label, problem)
            except UNUSABLE as error:
                problem = _reason(error)
                continue
            problem = self._problem(track)
            if problem is None:
                self.tracks.notes.extend(remarks)
                return track
        raise _LeftOut(f"it can neither be copied nor encoded again ({problem})")

    def _copied_sound(self, stream: av.AudioStream, packets: list[av.Packet], label: str) -> Track:
        """Raises ValueError where a copy would not be what the source is."""
        if any(packet.pts is None for packet in packets):
            raise ValueError("its times are not known")
        if _changes(packets):
            raise ValueError("it changes its form on the way")
        kept = []
        for packet, (start, end) in zip(packets, spans(stream, packets), strict=True):
            begun = self.piece.end is None or start - self.piece.origin < self.piece.end
            if begun and end - self.piece.origin > -_PREROLL:
                kept.append(self._moved(packet, start, end - start))
        if not kept or kept[-1].end <= 0:
            raise _LeftOut("nothing of it is heard in this piece")
        if any(b.pts <= a.pts for a, b in itertools.pairwise(kept)):
            raise ValueError("its times do not increase")
        return self._track(stream, "sound", label, kept, lambda c: c.add_stream_from_template(stream, opaque=True))

    def _moved(self, packet: av.Packet, start: Fraction, duration: Fraction) -> Timed:
        """A packet on the result's clock, as fine as the sound's samples: some sources' clocks tick once a packet."""
        rate = getattr(packet.stream, "rate", None)
        time_base = Fraction(1, rate) if rate else min(packet.time_base, FINE)
        pts, ticks = round((start - self.piece.origin) / time_base), round(duration / time_base)
        return Timed(packet=packet, pts=pts, dts=pts, duration=ticks, time_base=time_base)

    def _encoded_sound(
        self,
        stream: av.AudioStream,
        packets: list[av.Packet],
        way: str,
        codec: str,
        label: str,
        problem: str | None,
    ) -> tuple[Track, list[str]]:
        stream.codec_context.flush_buffers()
        sound = encode_again(DecodedSound(stream, packets, all_channels=way not in LOSSY_SOUND), way, self.piece)
        if sound is None:
            raise _LeftOut("nothing of it is heard in this piece")
        track = self._track(stream, "sound", label, sound.packets, encoded_stream(sound))
        remarks = []
        if sound.broken:
            remarks.append(f"{sound.broken} of {len(packets)} packets of {label} could not be decoded; they are silent")
        if way in LOSSY_SOUND:
            remarks.append(f"{label} was encoded again as {LOSSY_SOUND[way]}{self._why(codec, problem)}")
        kept = len(av.AudioLayout(sound.encoding.layout).channels)
        if kept < sound.channels:
            remarks.append(f"the {sound.channels} channels of {label} became {kept}")
        return track, remarks

    def _why(self, codec: str, problem: str | None) -> str:
        if problem is not None:
            return f" since it could not be copied ({problem})"
        others = [suffix for suffix in holders(codec, "sound") if suffix != self.container]
        name = CONTAINER_NAMES[self.container]
        return f": not every player reads {codec} in {name}" + (f"; use -o x{others[-1]} to keep it" if others else "")

    # 2. Subtitles

    def _subtitle(self, stream: SubtitleStream, packets: list[av.Packet], codec: str, label: str) -> Track:
        copied = codec in COPIED_SUBTITLES[self.container]
        if not copied and (codec not in TEXT_CODECS or self.container not in WRITTEN_SUBTITLES):
            others = holders(codec, "subtitle")
            raise _LeftOut(
                f"{CONTAINER_NAMES[self.container]} cannot hold it" + (f"; use -o x{others[-1]}" if others else "")
            )
        try:
            if copied:
                track = self._copied_subtitle(stream, packets, label)
            else:
                track = self._written_subtitle(stream, packets, label)
        except UNUSABLE as error:
            raise _LeftOut(f"it cannot be read ({_reason(error)})") from error
        problem = self._problem(track)
        if problem is not None:
            raise _LeftOut(f"it cannot be written ({problem})")
        return track

    def _copied_subtitle(self, stream: SubtitleStream, packets: list[av.Packet], label: str) -> Track:
        kept = []
        for packet in packets:
            if packet.pts is None or (stream.name == "mov_text" and packet.size <= 2):  # a pause between lines
                continue
            times = (packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base)
            timed = self._moved(packet, *times)
            start, end = max(timed.pts, 0), timed.pts + timed.duration
            if self.piece.end is not None:
                end = min(end, int(self.piece.end / timed.time_base))
            if timed.duration and end > start:
                kept.append(replace(timed, pts=start, dts=start, duration=end - start))
            elif not timed.duration and timed.pts >= 0 and (self.piece.end is None or timed.time < self.piece.end):
                kept.append(timed)
        if not kept:
            raise _LeftOut("nothing of it is shown in this piece")
        return self._track(stream, "subtitle", label, kept, lambda c: c.add_stream_from_template(stream, opaque=True))

    def _written_subtitle(self, stream: SubtitleStream, packets: list[av.Packet], label: str) -> Track:
        written = WRITTEN_SUBTITLES[self.container]
        lines = cut_lines(read_lines(stream, packets), self.piece.origin, self.piece.end, Fraction(0))
        if written == "mov_text":
            lines = list(one_at_a_time(lines))
        header = stream.codec_context.subtitle_header
        timed = encode_lines(lines, written, header)
        if not timed:
            raise _LeftOut("nothing of it is shown in this piece")

        def add_to(container: av.container.OutputContainer) -> av.stream.Stream:
            added = container.add_stream(written)
            added.codec_context.subtitle_header = header
            return added

        return self._track(stream, "subtitle", label, timed, add_to)

    # 3. What both have in common

    def _track(self, stream: av.stream.Stream, kind: str, label: str, packets: list[Timed], add_to: AddStream) -> Track:
        metadata = {tag: text for tag, text in stream.metadata.items() if tag in _TRACK_TAGS}
        if metadata.get("handler_name") in _USUAL_HANDLERS:
            del metadata["handler_name"]
        if "title" in metadata and self.container != ".mkv":
            metadata["handler_name"] = metadata["title"]  # where MP4 and its kin have room for it
        if self.container == ".mov" and "language" in metadata:
            metadata["language"] = QUICKTIME_LANGUAGES.get(metadata["language"], metadata["language"])
        disposition = int(stream.disposition)
        return Track(label=label, kind=kind, packets=packets, add_to=add_to, metadata=metadata, disposition=disposition)

    def _problem(self, track: Track) -> str | None:
        """Why a track cannot be written so; None if it can. A small picture will do, and the track's ends."""
        packets = track.packets if len(track.packets) < 400 else [*track.packets[:200], *track.packets[-100:]]
        small = replace(self.picture, size=(64, 64))
        try:
            _rehearse(self.tracks.only(track, packets), self.container, small)
        except UserError as error:
            return _reason(error.__cause__ or error)
        return None


def _changes(packets: Sequence[av.Packet]) -> bool:
    """Whether the form of a track (rate, channels) changes on the way, which a copy's header could not say."""
    if any(packet.has_sidedata("new_extradata") for packet in packets[1:]):
        return True
    # ADTS says it in bits 16 to 25 of every packet: profile, rate, channels.
    heads = [bytes(memoryview(packet)[:4]) for packet in packets]
    adts = [head for head in heads if len(head) == 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0]
    return packets[0].stream.name == "aac" and len({(head[2] & 0xFD, head[3] & 0xC0) for head in adts}) > 1


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).split(": '")[0].lower()


def _rehearse(tracks: Tracks, container: str, picture: Picture) -> None:
    """Write tracks with three black pictures, and read them back.

    Raises:
        UserError: if that fails, or if something is not where it belongs.
    """
    height, width = picture.size
    black = np.zeros((height, width, 3), np.uint8)
    options = {"coding": picture.coding, "time_base": picture.time_base, "tracks": tracks}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"rehearsal{container}"
            with VideoWriter(path, height, width, picture.fps, **options) as writer:
                for index in range(3):
                    writer.write(Frame(black, index / picture.fps, 1 / picture.fps))
            _check_written(path, tracks)
    except UNUSABLE as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise UserError(f"the disk is full: free some space in {tempfile.gettempdir()}") from error
        name = CONTAINER_NAMES[container]
        raise UserError(
            f"{name} with pictures of {width}x{height} at {float(picture.fps):g} frames a second cannot be written "
            f"({_reason(error)}); try another `output` or `output_size` model"
        ) from error


def _check_written(path: Path, tracks: Tracks) -> None:
    """Raises ValueError if a track of the rehearsal is absent or out of place."""
    with av.open(str(path)) as written:
        found = [written.streams.video[0], *written.streams.audio]
        sounds = [track for track in tracks.tracks if track.kind == "sound"]
        due = [tracks.lead, *(track.packets[0].time for track in sounds)]
        if len(found) != len(due):
            raise ValueError("a track was lost")
        first: dict[int, Fraction] = {}
        for packet in written.demux(found):
            if packet.pts is not None:
                at = packet.pts * packet.time_base
                first[packet.stream.index] = min(first.get(packet.stream.index, at), at)
        for stream, time in zip(found, due, strict=True):
            if abs(first[stream.index] - time) > _ROUNDING:
                raise ValueError(f"{CONTAINER_NAMES[container_of(path)]} cannot begin within a packet")
