"""Draws `docs/images/edits.png`: clips and what the shipped nano makes of them, with the instructions.

    python tools/make_edits.py cup.mp4 "Change the scene to nighttime" street.mp4 "Remove the red balloon" ...

The middle of the first 17 frames of each clip: the source, and beside it the result.
"""

import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sama_video.editing import EditSettings, edit_video
from sama_video.pipelines.loading import load_pipeline
from sama_video.video import VideoReader

OUT = Path(__file__).parent.parent / "docs" / "images" / "edits.png"
NUM_FRAMES, COLUMNS = 17, 3
WIDTH, HEIGHT, GAP, TEXT = 168, 144, 8, 24


def middle(path: Path) -> Image.Image:
    frames = [frame.pixels for frame in VideoReader(path).frames(0, NUM_FRAMES)]
    frame = Image.fromarray(frames[len(frames) // 2])
    return ImageOps.pad(frame, (WIDTH, HEIGHT), Image.Resampling.LANCZOS, "white")


def main() -> None:
    jobs = [(Path(video), instruction) for video, instruction in zip(sys.argv[1::2], sys.argv[2::2], strict=True)]
    pipe = load_pipeline("nano")
    cell = 2 * WIDTH + GAP
    sheet = Image.new("RGB", (COLUMNS * cell - GAP, -(-len(jobs) // COLUMNS) * (HEIGHT + TEXT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    with TemporaryDirectory() as folder:
        for number, (video, instruction) in enumerate(jobs):
            edited = Path(folder) / f"{number}.mp4"
            edit_video(pipe, video, instruction, edited, EditSettings(num_frames=NUM_FRAMES, crf=0))
            row, column = divmod(number, COLUMNS)
            left, top = column * cell, row * (HEIGHT + TEXT)
            sheet.paste(middle(video), (left, top))
            sheet.paste(middle(edited), (left + WIDTH, top))
            line = textwrap.shorten(instruction, 56, placeholder="...")
            pen.text((left, top + HEIGHT + 3), line, fill="black", font=font)
    sheet.save(OUT, optimize=True)


if __name__ == "__main__":
    main()
