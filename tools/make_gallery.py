"""Draws `docs/images/engine.jpg`: for every family of the synthetic engine, source and target of a few samples.

    python tools/make_gallery.py

The middle frames of clips of 17 frames at 128x128, of the test split, with their instructions.
"""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sama_video.synth.edits import FAMILIES
from sama_video.synth.engine import Engine

OUT = Path(__file__).parent.parent / "docs" / "images" / "engine.jpg"
SIDE, GAP, TEXT = 128, 6, 46
COLUMNS = 4
LEFT = 26


def main() -> None:
    cell = 2 * SIDE + 2 + GAP
    sheet = Image.new("RGB", (LEFT + COLUMNS * cell, len(FAMILIES) * (SIDE + TEXT)), "white")
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    for row, family in enumerate(FAMILIES):
        engine = Engine(split="test", families=(family,))
        top = row * (SIDE + TEXT)
        label = Image.new("RGB", (SIDE, LEFT), "white")
        ImageDraw.Draw(label).text((SIDE // 2, 6), family.replace("_", " "), fill="black", font=font, anchor="ma")
        sheet.paste(label.rotate(90, expand=True), (0, top))
        for column in range(COLUMNS):
            pair = engine.pair(row * COLUMNS + column, 17, SIDE, SIDE)
            left = LEFT + column * cell
            for side, video in enumerate((pair.source, pair.target)):
                sheet.paste(Image.fromarray(video[8]), (left + side * (SIDE + 2), top))
            lines = textwrap.wrap(pair.instruction, 46)[:3]
            pen.multiline_text((left, top + SIDE + 2), "\n".join(lines), fill="black", font=small, spacing=2)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(OUT, quality=88)


if __name__ == "__main__":
    main()
