"""Clips with sound whose every moment is known, and readers that say when it is heard."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

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


def _add(container: av.container.OutputContainer, sound: Sound) -> av.AudioStream:
    stream = container.add_stream(sound.codec, rate=sound.rate)
    stream.codec_context.layout = sound.layout
    stream.metadata.update(sound.metadata)
    if sound.codec in ("truehd", "dca", "vorbis", "opus"):
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
        origin = first.pts * first.time_base
    with av.open(str(path)) as container:
        due, resampler = None, av.AudioResampler("flt", "mono", rate)
        for frame in container.decode(container.streams.audio[track]):
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
    """The same as FFmpeg's own command hears it, from the beginning of the file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", f"0:a:{track}"]
    command += ["-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", str(rate), "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32).astype(float)


def shift_and_likeness(found: np.ndarray, wanted: np.ndarray, begin: float, end: float, rate: int = 44100):
    """(seconds that `found` comes late, signal to noise in dB) of what `wanted` has in `begin .. end` seconds."""
    first, last, reach = round(begin * rate), round(end * rate), round(0.2 * rate)
    part = wanted[first:last]
    low = max(0, first - reach)
    window = found[low : last + reach]
    size = len(window) + len(part)
    products = np.fft.irfft(np.fft.rfft(window, size) * np.conj(np.fft.rfft(part, size)), size)
    at = int(products[: len(window) - len(part) + 1].argmax())
    there = window[at : at + len(part)]
    gain = np.dot(there, part) / max(1e-12, np.dot(part, part))
    error = np.sum((there - gain * part) ** 2)
    return (low + at - first) / rate, 10 * np.log10(np.sum((gain * part) ** 2) / max(1e-12, error) + 1e-12)
