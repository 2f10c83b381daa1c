"""Samples a second of the synthetic engine on one core, at 128x128 and 17 frames, procedural backgrounds.

The baseline draws the same scenes with Pillow: `Image.alpha_composite` of rotated and resized sprites on the same
background frames, frame by frame, for source and target; it makes no masks and no looks, so it does less.
"""

import math
import os
import statistics
import time

import numpy as np
from common import setting
from PIL import Image

from sama_video.synth.draw import TURN
from sama_video.synth.engine import Draft, Engine, render_draft
from sama_video.synth.scene import SUBPIXELS, Scene
from sama_video.synth.sprites import tile_of

FRAMES, HEIGHT, WIDTH = 17, 128, 128
PER_ROUND = 64
ROUNDS = 7


def draw_with_pillow(scene: Scene) -> np.ndarray:
    video = scene.background.frames(FRAMES, HEIGHT, WIDTH)
    drawn = []
    for index, pixels in enumerate(video):
        picture = Image.fromarray(pixels).convert("RGBA")
        for thing in scene.things:
            tile = Image.fromarray(tile_of(thing.sprite, thing.colour, thing.attribute), "RGBa").convert("RGBA")
            side = thing.side(HEIGHT, WIDTH)
            tile = tile.resize((side, side), Image.Resampling.BOX)
            if thing.spins:
                turn = thing.spins * TURN * index // (FRAMES - 1)
                tile = tile.rotate(-360 * turn / TURN, Image.Resampling.BILINEAR, expand=True)
            x, y = thing.motion.centres(FRAMES, HEIGHT, WIDTH)[index] / SUBPIXELS
            layer = Image.new("RGBA", picture.size)
            layer.paste(tile, (math.floor(x - tile.width / 2), math.floor(y - tile.height / 2)))
            picture = Image.alpha_composite(picture, layer)
        drawn.append(np.array(picture.convert("RGB")))
    return np.stack(drawn)


def baseline(draft: Draft) -> None:
    draw_with_pillow(draft.source)
    draw_with_pillow(draft.edit.target)


def main() -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    print(setting())
    print(f"one core, {FRAMES} frames of {HEIGHT}x{WIDTH}, {PER_ROUND} samples a round, median of {ROUNDS} rounds")
    engine = Engine(loose=0.1)
    rates, ratios = [], []
    for number in range(ROUNDS + 1):
        indices = range(number * PER_ROUND, (number + 1) * PER_ROUND)
        started = time.process_time()
        drafts = [engine.draft(index) for index in indices]
        for draft in drafts:
            render_draft(draft, FRAMES, HEIGHT, WIDTH)
        ours = time.process_time() - started
        started = time.process_time()
        for draft in drafts:
            baseline(draft)
        theirs = time.process_time() - started
        if number:  # the first round warms the caches of both
            rates.append(PER_ROUND / ours)
            ratios.append(theirs / ours)
    print(f"engine: {statistics.median(rates):.1f} samples a second (lowest round {min(rates):.1f})")
    print(f"against Pillow drawing: {statistics.median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
