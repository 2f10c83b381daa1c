"""Pictures of a validation: source, prediction and target beside each other, as one sheet and as clips.

F frames, H W pixels; clips are uint8 `[F, H, W, 3]` and may differ in length.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ...video import Frame, VideoWriter, write_image

TIMES = 3
CELL_HEIGHT, LABEL_HEIGHT, HEADER_HEIGHT, GAP = 96, 20, 24, 8
COLUMNS = ("source", "prediction", "target")
PAPER, INK = (255, 255, 255), (40, 40, 40)
FPS = Fraction(16)


def draw_sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> PIL.Image.Image:
    """A row for each label and its clips (source, prediction, target), each shown at its beginning, middle and end."""
    strips = [[_strip(clip) for clip in clips] for _, clips in rows]
    column_width = max(strip.width for row in strips for strip in row) + GAP
    row_height = LABEL_HEIGHT + CELL_HEIGHT + GAP
    sheet = PIL.Image.new("RGB", (len(COLUMNS) * column_width, HEADER_HEIGHT + len(rows) * row_height), PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS):
        draw.text((column * column_width, 4), name, INK, PIL.ImageFont.load_default(14))
    for number, (label, _) in enumerate(rows):
        top = HEADER_HEIGHT + number * row_height
        draw.text((0, top + 2), label, INK, PIL.ImageFont.load_default(12))
        for column, strip in enumerate(strips[number]):
            sheet.paste(strip, (column * column_width, top + LABEL_HEIGHT))
    return sheet


def _strip(clip: np.ndarray) -> PIL.Image.Image:
    """Frames at up to `TIMES` times, beside each other."""
    indices = sorted({round(index) for index in np.linspace(0, len(clip) - 1, TIMES)})
    picture = PIL.Image.fromarray(np.concatenate([clip[index] for index in indices], axis=1))
    width = round(picture.width * CELL_HEIGHT / picture.height)
    return picture.resize((width, CELL_HEIGHT), PIL.Image.Resampling.BICUBIC)


def write_side_by_side(path: Path, clips: Sequence[np.ndarray]) -> Path:
    """Clips of one frame size as one clip, or pictures as one PNG; a shorter clip stands still at its end.

    Args:
        path: without suffix.
    """
    length = max(len(clip) for clip in clips)
    frames = [np.concatenate([clip[min(index, len(clip) - 1)] for clip in clips], axis=1) for index in range(length)]
    if length == 1:
        write_image(path.with_suffix(".png"), frames[0])
        return path.with_suffix(".png")
    height, width = frames[0].shape[:2]
    with VideoWriter(path.with_suffix(".mp4"), height, width, FPS, time_base=1 / FPS) as writer:
        for index, pixels in enumerate(frames):
            writer.write(Frame(pixels, index / FPS, 1 / FPS))
    return path.with_suffix(".mp4")
