"""Clips with sound whose every moment is known, and readers that say when it is heard."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

from sama_video.video import (
    Frame,
    Picture,
    PictureCoding,
    Piece,
    VideoReader,
    VideoWriter,
    carry_tracks,
    regular_time_base,
)

from .clips import picture

FPS = Fraction(25)


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise below 3 kHz (or a third of the rate), float32 `[n]` in -0.5..0.5: it is like itself at one place only."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    spectrum = np.fft.rfft(samples)
    spectrum[int(min(3000, rate / 3) / rate * len(samples)) :] = 0
    samples = np.fft.irfft(spectrum, len(samples))
    return (samples / np.abs(samples).max() * 0.5).astype(np.float32)


@dataclass
class Sound:
    """A track to write: samples `[n]` or `[n, c]`, when they begin, and gaps as (from, to) seconds left out."""

    samples: np.ndarray
    rate: int = 44100
    codec: str = "aac"
    layout: str = "mono"
    start: Fraction = Fraction(0)
    gaps: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


def write_pictures_and_sounds(
    path: Path,
    sounds: list[Sound],
    num_frames: int = 50,
    *,
    first: Fraction = Fraction(0),
    video: str = "libx264",
    format: str | None = None,
    extra: Callable[[av.container.OutputContainer], Callable[[], None]] | None = None,
) -> Path:
    """Pictures from `first` seconds on at 25 a second, and the sounds.

    `extra` may add streams before the header is written; what it returns is called to write them.
    """
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(video, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if video == "mjpeg" else "yuv420p"
        tracks = [(sound, _add(container, sound)) for sound in sounds]
        for index, (_, track) in enumerate(tracks):
            track.disposition = int(index == 0)  # the first is the default
        finish = extra(container) if extra is not None else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, 48, 64), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = index + round(first * FPS), 1 / FPS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for sound, track in tracks:
            _write(container, track, sound)
        if finish is not None:
            finish()
    return path


def write_with_ffmpeg(path: Path, sound: Sound, *options: str) -> Path:
    """The same two seconds by FFmpeg's command, for encoders that PyAV is built without."""
    plain = write_pictures_and_sounds(path.with_suffix(".plain.mov"), [replace(sound, codec="pcm_s16le")])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(plain), *options, "-strict", "-2", str(path)]
    subprocess.run(command, check=True)
    return path


def carry(source: Path, output: Path, start: float = 0.0, num_frames: int | None = None) -> list[str]:
    """The source's pictures (small and grey) and all its tracks into a new file, as an edit does it; the notes."""
    reader = VideoReader(source)
    frames = list(reader.frames(start, num_frames, size=(48, 64)))
    begin, last = frames[0].time, frames[-1]
    times = [frame.time - begin for frame in frames]
    cut = num_frames is not None and len(frames) == num_frames
    piece = Piece(
        origin=reader.origin + begin,
        end=last.time + last.duration - begin if cut else None,
        from_start=begin == 0,
    )
    time_base = regular_time_base(times, reader.info.fps)
    look = Picture(size=(48, 64), fps=reader.info.fps, time_base=time_base, coding=PictureCoding())
    with carry_tracks(source, output, look, piece) as tracks:
        with VideoWriter(output, 48, 64, reader.info.fps, time_base=time_base, tracks=tracks) as writer:
            for time, frame in zip(times, frames, strict=True):
                writer.write(Frame(frame.pixels, time, frame.duration))
        return tracks.notes


def carry_beside(source: Path, output: Path, num_frames: int) -> list[str]:
    """All tracks of a source beside so many black pictures at 25 a second; the notes."""
    with av.open(str(source)) as container:
        first = next(container.decode(container.streams.video[0]))
        piece = Piece(origin=(first.pts or 0) * first.time_base)
    look = Picture(size=(48, 64), fps=FPS, time_base=1 / FPS, coding=PictureCoding())
    with carry_tracks(source, output, look, piece) as tracks:
        with VideoWriter(output, 48, 64, FPS, time_base=1 / FPS, tracks=tracks) as writer:
            for index in range(num_frames):
                writer.write(Frame(np.zeros((48, 64, 3), np.uint8), index / FPS, 1 / FPS))
        return tracks.notes


def _add(container: av.container.OutputContainer, sound: Sound) -> av.AudioStream:
    stream = container.add_stream(sound.codec, rate=sound.rate)
    stream.codec_context.layout = sound.layout
    stream.metadata.update(sound.metadata)
    if sound.codec == "vorbis":
        stream.codec_context.options["strict"] = "experimental"
    return stream


def _write(container: av.container.OutputContainer, stream: av.AudioStream, sound: Sound) -> None:
    channels = len(av.AudioLayout(sound.layout).channels)
    samples = sound.samples if sound.samples.ndim == 2 else np.repeat(sound.samples[:, None], channels, axis=1)
    resampler = av.AudioResampler(stream.codec_context.format.name, sound.layout, sound.rate)
    size = 441 if sound.codec.startswith(("pcm", "adpcm")) else 0
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="flt", layout=sound.layout)
    whole.sample_rate, whole.pts, whole.time_base = sound.rate, 0, Fraction(1, sound.rate)
    blocks = _in_blocks(resampler.resample(whole), size or len(samples))
    for position, block in blocks:
        time = sound.start + Fraction(position, sound.rate)
        if any(begin <= time < end for begin, end in sound.gaps):
            continue
        block.pts, block.time_base = round(time * sound.rate), Fraction(1, sound.rate)
        container.mux(stream.encode(block))
    container.mux(stream.encode())


def _in_blocks(frames: list[av.AudioFrame], size: int) -> list[tuple[int, av.AudioFrame]]:
    blocks, position = [], 0
    for frame in frames:
        array = frame.to_ndarray()
        step = size if frame.format.is_planar else size * len(frame.layout.channels)
        for begin in range(0, array.shape[1], step):
            part = np.ascontiguousarray(array[:, begin : begin + step])
            block = av.AudioFrame.from_ndarray(part, format=frame.format.name, layout=frame.layout.name)
            block.sample_rate = frame.sample_rate
            blocks.append((position, block))
            position += block.samples
    return blocks


def heard(path: Path, track: int = 0, rate: int = 44100, seconds: float = 8) -> np.ndarray:
    """What a track sounds like, float `[n]` at `rate`, its first sample at the first picture; silence elsewhere."""
    result = np.zeros(round(seconds * rate))
    with av.open(str(path)) as container:
        first = next(container.decode(container.streams.video[0]))
        origin = (first.pts or 0) * first.time_base
    with av.open(str(path)) as container:
        due, resampler = None, av.AudioResampler("flt", "mono", rate)
        for frame in container.decode(container.streams.audio[track]):
            time = due or Fraction(0)
            if frame.pts is not None:
                time = frame.pts * frame.time_base - origin
            if due is None or abs(time - due) > 0.005:  # containers round times
                at = round(time * rate)
                due = time
            due += Fraction(frame.samples, frame.sample_rate)
            for part in resampler.resample(frame):
                _lay(result, part.to_ndarray()[0], at)
                at += part.samples
        for part in resampler.resample(None):
            _lay(result, part.to_ndarray()[0], at)
    return result


def _lay(result: np.ndarray, samples: np.ndarray, at: int) -> None:
    samples = samples[max(0, -at) :]
    at = max(0, at)
    part = result[at : at + len(samples)]
    part[:] = samples[: len(part)]


def heard_by_ffmpeg(path: Path, track: int = 0, rate: int = 44100) -> np.ndarray:
    """The same as FFmpeg's own command hears it."""
    with av.open(str(path)) as container:
        first = next(container.decode(container.streams.video[0]))
        late = round((first.pts or 0) * first.time_base * rate)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-copyts", "-i", str(path), "-map", f"0:a:{track}"]
    command += ["-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", str(rate), "-f", "f32le", "-"]
    samples = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(samples, np.float32).astype(float)[late:]


def shift_and_likeness(found: np.ndarray, wanted: np.ndarray, begin: float, end: float, rate: int = 44100):
    """(seconds that `found` comes late, signal to noise in dB) of what `wanted` has in `begin .. end` seconds."""
    first, last, reach = round(begin * rate), round(end * rate), round(0.2 * rate)
    part = wanted[first:last]
    low = max(0, first - reach)
    window = found[low : last + reach]
    size = 1 << (len(window) + len(part)).bit_length()
    products = np.fft.irfft(np.fft.rfft(window, size) * np.conj(np.fft.rfft(part, size)), size)
    at = int(products[: len(window) - len(part) + 1].argmax())
    there = window[at : at + len(part)]
    gain = np.dot(there, part) / max(1e-12, np.dot(part, part))
    error = np.sum((there - gain * part) ** 2)
    return (low + at - first) / rate, 10 * np.log10(np.sum((gain * part) ** 2) / max(1e-12, error) + 1e-12)
