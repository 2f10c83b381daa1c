"""Copies that every browser plays, of a size for a page: H.264 in yuv420p, or PNG."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from ..system.files import written_aside
from ..system.workers import Progress, silent
from .codecs import PictureCoding
from .pictures import write_image
from .reader import VideoReader
from .writer import VideoWriter


def write_playable(
    file: Path,
    stem: Path,
    longest_side: int,
    *,
    crf: int = 16,
    start: float = 0.0,
    num_frames: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Copy a video or picture to `stem` with a suffix, made smaller where a side is longer than so many pixels.

    Args:
        start, num_frames: the part of a video that is copied; its times begin at 0.
        progress: called as ("preparing to show", done, of).

    Returns:
        The copy.
    """
    reader = VideoReader(file)
    info = reader.info
    scale = min(1.0, longest_side / max(info.height, info.width))
    size = (max(2, round(info.height * scale)), max(2, round(info.width * scale)))
    path = stem.with_suffix(".png" if info.is_image else ".mp4")
    with written_aside(path) as aside:
        if info.is_image:
            write_image(aside, next(reader.frames(size=size)).pixels)
            return path
        begin: Fraction | None = None
        with VideoWriter(aside, *size, info.fps, coding=PictureCoding(crf=crf)) as writer:
            for index, frame in enumerate(reader.frames(start, num_frames, size)):
                begin = frame.time if begin is None else begin
                writer.write(replace(frame, time=frame.time - begin))
                progress("preparing to show", index + 1, num_frames or max(info.num_frames, index + 1))
    return path
