"""Draws clips and what the shipped nano makes of them, with the instructions: `docs/images/edits.webp` and `edits.png`.

    python tools/make_edits.py edits.webp
    python tools/make_edits.py edits.png cup.mp4 "Change the scene to nighttime" street.mp4 "Remove the red balloon" ...

A WebP moves: one clip after the other, source and result beside it, without names the bundled clip by five instructions.
A PNG is a sheet of the middles of the clips' first 17 frames.
"""

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sama_video.editing import EditSettings, edit_video
from sama_video.models.presets import ASSETS
from sama_video.pipelines.loading import load_pipeline
from sama_video.video import VideoReader

FOLDER = Path(__file__).parent.parent / "docs" / "images"
BUNDLED = (
    "Remove the car",
    "Change the scene to nighttime",
    "Make the car blue",
    "Make it look like an old sepia photograph",
    "Make it black and white",
)
SHEET_FRAMES, COLUMNS = 17, 3
GAP = 8


@dataclass(frozen=True)
class Edit:
    """An instruction, a clip, and what became of it: frames `[H, W, 3]`."""

    instruction: str
    source: list[np.ndarray]
    result: list[np.ndarray]

    def drawn(self, frame: int, size: tuple[int, int], font_size: int) -> Image.Image:
        """Source and result beside it, with the instruction below."""
        width, height = size
        cell = Image.new("RGB", (2 * width, height + 2 * font_size), "white")
        for column, frames in enumerate((self.source, self.result)):
            picture = ImageOps.pad(Image.fromarray(frames[frame]), size, Image.Resampling.LANCZOS, "white")
            cell.paste(picture, (column * width, 0))
        line = textwrap.shorten(self.instruction, 56, placeholder="...")
        place = (0, height + font_size // 4)
        ImageDraw.Draw(cell).text(place, line, fill="black", font=ImageFont.load_default(font_size))
        return cell


def edits_of(jobs: list[tuple[Path, str]], num_frames: int | None) -> list[Edit]:
    pipe, settings = load_pipeline("nano"), EditSettings(num_frames=num_frames, crf=0)
    edits = []
    with TemporaryDirectory() as folder:
        for number, (video, instruction) in enumerate(jobs):
            result = Path(folder) / f"{number}.mp4"
            edit_video(pipe, video, instruction, result, settings)
            films = ([frame.pixels for frame in VideoReader(path).frames(0, num_frames)] for path in (video, result))
            edits.append(Edit(instruction, *films))
    return edits


def write_sheet(jobs: list[tuple[Path, str]], path: Path) -> None:
    cells = [edit.drawn(len(edit.source) // 2, (168, 144), 12) for edit in edits_of(jobs, SHEET_FRAMES)]
    across, down = cells[0].width + GAP, cells[0].height
    sheet = Image.new("RGB", (COLUMNS * across - GAP, -(-len(cells) // COLUMNS) * down), "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, COLUMNS)
        sheet.paste(cell, (column * across, row * down))
    sheet.save(path, optimize=True)


def write_film(jobs: list[tuple[Path, str]], path: Path) -> None:
    edits = edits_of(jobs, None)
    pictures = [edit.drawn(number, (384, 288), 20) for edit in edits for number in range(len(edit.source))]
    rate = VideoReader(jobs[0][0]).info.fps
    pictures[0].save(path, append_images=pictures[1:], duration=round(1000 / rate), loop=0, quality=60, method=6)


def main() -> None:
    path = FOLDER / sys.argv[1]
    named = sys.argv[2:]
    jobs = [(Path(video), instruction) for video, instruction in zip(named[::2], named[1::2], strict=True)]
    jobs = jobs or [(ASSETS / "demo.mp4", instruction) for instruction in BUNDLED]
    (write_film if path.suffix == ".webp" else write_sheet)(jobs, path)


if __name__ == "__main__":
    main()
