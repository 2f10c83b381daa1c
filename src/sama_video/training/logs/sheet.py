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
MIN_WIDTH = 720  # so that a label of pictures is a line or two
FPS = Fraction(16)
_FONT = PIL.ImageFont.load_default(12)


def draw_sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    columns: Sequence[str] = COLUMNS,
    *,
    times: int = TIMES,
    from_right: bool = False,
) -> PIL.Image.Image:
    """A row for each label and its clips, each shown at several times: its beginning, middle and end.

    Args:
        rows: labels of any length, and as many clips as there are columns or fewer.
        columns: what the clips are.
        times: frames shown of a clip, from its first to its last.
        from_right: it is the first columns that a row without all clips leaves empty, not the last.
    """
    strips = [[_strip(clip, times) for clip in clips] for _, clips in rows]
    column_width = max(MIN_WIDTH // len(columns), *(strip.width for row in strips for strip in row)) + GAP
    width = len(columns) * column_width
    labels = ["\n".join(_lines(label, width)) for label, _ in rows]
    heights = [LABEL_HEIGHT * (label.count("\n") + 1) + CELL_HEIGHT + GAP for label in labels]
    sheet = PIL.Image.new("RGB", (width, HEADER_HEIGHT + sum(heights)), PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((column * column_width, 4), name, INK, PIL.ImageFont.load_default(14))
    top = HEADER_HEIGHT
    for label, height, row in zip(labels, heights, strips, strict=True):
        for number, line in enumerate(label.split("\n")):
            draw.text((0, top + number * LABEL_HEIGHT + 2), line, INK, _FONT)
        first = len(columns) - len(row) if from_right else 0
        for column, strip in enumerate(row, start=first):
            sheet.paste(strip, (column * column_width, top + height - GAP - CELL_HEIGHT))
        top += height
    return sheet


def _lines(label: str, width: int) -> list[str]:
    """A label cut between words where it would be wider than so many pixels."""
    lines = []
    for paragraph in label.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _FONT.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _strip(clip: np.ndarray, times: int) -> PIL.Image.Image:
    """Frames at up to so many times, beside each other."""
    indices = sorted({round(index) for index in np.linspace(0, len(clip) - 1, times)})
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
