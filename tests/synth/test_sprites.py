from itertools import combinations

import numpy as np
import pytest

from sama_video.synth.lettering import FONTS, line_tile
from sama_video.synth.sprites import (
    ATTRIBUTES,
    COLOURS,
    NANO_VOCABULARY,
    SPLITS,
    find_vocabulary,
    scaled_tile,
    sprites,
    tile_of,
)


def drawings(split):
    return {(sprite.name, sprite.art) for sprite in sprites(split)}


def test_no_drawing_is_in_two_splits_and_held_out_names_are_known():
    for first, second in combinations(SPLITS, 2):
        assert not drawings(first) & drawings(second)
    names = {split: {sprite.name for sprite in sprites(split)} for split in SPLITS}
    assert names["validation"] | names["test"] == names["train"]
    assert len(names["train"]) > 200
    assert min(len(found) for found in names.values()) > 80


def test_no_two_drawings_of_different_splits_have_the_same_pixels():
    seen = {}
    for split in SPLITS:
        for sprite in sprites(split):
            pixels = tile_of(sprite, "blue" if sprite.category == "shape" else None, None).tobytes()
            assert seen.setdefault(pixels, split) == split, sprite


@pytest.mark.parametrize("colour", [None, *COLOURS])
@pytest.mark.parametrize("attribute", [None, *ATTRIBUTES])
def test_tiles_are_premultiplied_and_show_something(colour, attribute):
    for sprite in sprites("train")[::40]:
        tile = scaled_tile(sprite, colour, attribute, 30)
        assert tile.shape == (30, 30, 4)
        assert tile.dtype == np.uint8
        assert (tile[..., :3].max(axis=-1) <= tile[..., 3].astype(int) + 1).all()
        assert tile[..., 3].max() > 100


def test_a_tint_is_of_its_colour():
    for sprite in sprites("test")[::30]:
        red, blue = (tile_of(sprite, colour, None).astype(int) for colour in ("red", "blue"))
        assert red[..., 0].sum() > red[..., 2].sum()
        assert blue[..., 2].sum() > blue[..., 0].sum()


def test_attributes_do_what_they_say():
    sprite = next(sprite for sprite in sprites("train") if sprite.name == "fox")
    plain = tile_of(sprite, None, None)
    assert np.array_equal(tile_of(sprite, None, "upside down")[::-1, ::-1], plain)
    assert np.array_equal(tile_of(sprite, None, "mirrored")[:, ::-1], plain)
    assert tile_of(sprite, None, "silhouette")[..., :3].max() == 0
    assert tile_of(sprite, None, "half transparent")[..., 3].max() == 127
    outlined = tile_of(sprite, None, "outlined")
    assert (outlined[..., 3] > 0).sum() > (plain[..., 3] > 0).sum()
    assert np.array_equal(outlined[plain[..., 3] == 255], plain[plain[..., 3] == 255])


def test_a_vocabulary_is_a_list_or_a_name():
    assert find_vocabulary("nano") == NANO_VOCABULARY
    assert find_vocabulary("fox, soccer ball,star") == ("fox", "soccer ball", "star")
    assert find_vocabulary("") == ()


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of"):
        sprites("holdout")


@pytest.mark.parametrize("font", [font for fonts in FONTS.values() for font in fonts])
def test_lines_have_the_asked_height_or_shrink_to_the_width(font):
    tile = line_tile("GOOD NIGHT", font, "yellow", 19, 1000)
    assert tile.shape[0] == 19
    assert tile[..., 3].max() == 255
    assert tile[..., 0].max() > 200
    assert tile[..., 2].max() < 60
    narrow = line_tile("GOOD NIGHT", font, "yellow", 19, 60)
    assert narrow.shape[1] == 60
    assert narrow.shape[0] < 19


def test_fonts_of_the_splits_differ():
    for first, second in combinations(SPLITS, 2):
        assert not set(FONTS[first]) & set(FONTS[second])
