"""Small video files of every kind, written with FFmpeg through PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image


def picture(index: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth, moving picture that says its index: a bright bar stands `4 * index` columns from the left."""
    y, x = np.mgrid[0:height, 0:width]
    red = 120 + 60 * np.sin((x + 3 * index) / 17)
    green = 110 + 60 * np.cos((y - 2 * index) / 13)
    blue = 100 + 50 * np.sin((x + y + index) / 23)
    pixels = np.stack([red, green, blue], axis=-1)
    pixels[height // 2 - 8 : height // 2 + 8, 4 * (index % 30) : 4 * (index % 30) + 4] = 250
    return pixels.astype(np.uint8)


def index_of(pixels: np.ndarray) -> int:
    """The index of a `picture`, read back from its bar."""
    height = pixels.shape[0]
    row = pixels[height // 2 - 6 : height // 2 + 6].astype(float).mean(axis=(0, 2))
    return round((int(row.argmax()) - 1.5) / 4)


def write_clip(
    path: Path,
    num_frames: int = 9,
    *,
    height: int = 96,
    width: int = 128,
    fps: Fraction = Fraction(24),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[Fraction] | None = None,
    rotation: int = 0,
    sound: bool = False,
    gop: int = 12,
) -> Path:
    time_base = Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        options = {"crf": "8", "bf": "0" if times else "2"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.codec_context.time_base = time_base
        if codec in ("mpeg1video", "mpeg2video"):
            stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("mp2" if path.suffix == ".mpg" else "aac", rate=44100) if sound else None
        times = times or [i / fps for i in range(num_frames)]
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            if codec == "libx264":
                frame.pts, frame.time_base = round(time / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            seconds = float(times[-1] + 1 / fps)
            samples = np.sin(np.arange(int(44100 * seconds)) * 440 * 2 * np.pi / 44100).astype(np.float32) * 0.3
            for start in range(0, len(samples), 1024):
                block = samples[start : start + 1024]
                frame = av.AudioFrame.from_ndarray(np.stack([block, block]), format="fltp", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
                if audio.codec_context.format.name != "fltp":
                    frame = av.AudioResampler(format=audio.codec_context.format.name, layout="stereo").resample(frame)[
                        0
                    ]
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def write_photos(folder: Path, count: int) -> None:
    """Pictures of coloured blocks, 0.png, 1.png, ..., no two alike."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
