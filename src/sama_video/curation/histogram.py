"""A picture of the distribution of every score, images and videos apart, with the threshold drawn."""

from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from .rules import CurationConfig
from .score import Scored

BIN = 0.5
LOW, HIGH = 1.0, 10.0
NUM_BINS = round((HIGH - LOW) / BIN) + 1  # the last holds the tens alone, since judges like to give them
PANEL_WIDTH, PANEL_HEIGHT = 380, 250
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 16, 58, 44
WHITE, INK = (255, 255, 255), (40, 40, 40)
KEPT, REJECTED, THRESHOLD = (46, 110, 180), (176, 184, 192), (200, 40, 40)


def bin_counts(values: list[float]) -> list[int]:
    """Numbers of values in bins of width `BIN` from 1 on; the last holds 10 alone."""
    counts = [0] * NUM_BINS
    for value in values:
        counts[int((value - LOW) / BIN)] += 1
    return counts


def draw_histograms(scored: list[Scored], config: CurationConfig, path: Path) -> None:
    """Writes a PNG: a row for each kind that occurs, a panel for each of its scores."""
    kinds = [kind for kind in ("image", "video") if any(one.kind == kind for one in scored)]
    columns = max((len(config.thresholds(kind)) for kind in kinds), default=1)
    image = PIL.Image.new("RGB", (columns * PANEL_WIDTH, max(1, len(kinds)) * PANEL_HEIGHT), WHITE)
    draw = PIL.ImageDraw.Draw(image)
    if not kinds:
        draw.text((PANEL_WIDTH / 2, PANEL_HEIGHT / 2), "no pair was judged", INK, _font(16), anchor="mm")
    for row, kind in enumerate(kinds):
        for column, (score, threshold) in enumerate(config.thresholds(kind).items()):
            averages = [one.averages[score] for one in scored if one.kind == kind]
            values = [value for value in averages if value is not None]
            title = f"{kind}s: {score.replace('_', ' ')}"
            _draw_panel(draw, column * PANEL_WIDTH, row * PANEL_HEIGHT, title, values, threshold)
    image.save(path, "PNG")


def _font(size: int) -> PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.load_default(size)


def _draw_panel(
    draw: PIL.ImageDraw.ImageDraw, left: int, top: int, title: str, values: list[float], threshold: float
) -> None:
    x0, x1 = left + MARGIN_LEFT, left + PANEL_WIDTH - MARGIN_RIGHT
    y0, y1 = top + MARGIN_TOP, top + PANEL_HEIGHT - MARGIN_BOTTOM
    counts = bin_counts(values)
    highest = max(1, *counts)

    def x_of(score: float) -> float:
        return x0 + (score - LOW) / (NUM_BINS * BIN) * (x1 - x0)

    passing = sum(value >= threshold for value in values)
    draw.text((x0, top + 10), title, INK, _font(16))
    draw.text((x0, top + 32), f"{passing} of {len(values)} pairs at {threshold:g} or above", THRESHOLD, _font(13))
    for index, count in enumerate(counts):
        score = LOW + index * BIN
        if count:
            box = (x_of(score) + 1, y1 - (y1 - y0) * count / highest, x_of(score + BIN) - 1, y1)
            # Whole and half thresholds, as the paper's, lie between bins; a bin across another counts as rejected.
            draw.rectangle(box, KEPT if score >= threshold else REJECTED)
    draw.line((x0, y1, x1, y1), INK)
    draw.line((x_of(threshold), y0 - 6, x_of(threshold), y1), THRESHOLD, 2)
    for score in range(int(LOW), int(HIGH) + 1):
        draw.line((x_of(score), y1, x_of(score), y1 + 4), INK)
        draw.text((x_of(score), y1 + 6), str(score), INK, _font(12), anchor="mt")
    draw.text(((x0 + x1) / 2, y1 + 24), "average over turns", INK, _font(12), anchor="mt")
    for count in (0, highest):
        y = y1 - (y1 - y0) * count / highest
        draw.line((x0 - 4, y, x0, y), INK)
        draw.text((x0 - 7, y), str(count), INK, _font(12), anchor="rm")
