import re
from itertools import combinations

from sama_video.synth.draw import Draw
from sama_video.synth.instructions import (
    CAPTIONS,
    EMPTY_CAPTIONS,
    JOINS,
    LOOK_WORDINGS,
    SUBTITLES,
    TEMPLATES,
    WRAPPERS,
    finish,
    look_instruction,
    with_article,
)
from sama_video.synth.looks import LOOKS
from sama_video.synth.sprites import SPLITS


def plain(text):
    return re.sub(r"[^a-z{}_ ]", "", text.lower()).strip()


def tables():
    yield from TEMPLATES.items()
    yield from (
        ("wrappers", WRAPPERS),
        ("joins", JOINS),
        ("subtitles", SUBTITLES),
        ("captions", CAPTIONS),
        ("empty captions", EMPTY_CAPTIONS),
    )


def test_no_template_is_in_two_splits_of_any_family():
    everything = {split: set() for split in SPLITS}
    for name, table in tables():
        assert set(table) == set(SPLITS), name
        for split, templates in table.items():
            assert templates, (name, split)
            everything[split] |= {plain(template) for template in templates}
    for first, second in combinations(SPLITS, 2):
        assert not everything[first] & everything[second]


def test_every_family_has_many_templates_to_train_on():
    for name, table in TEMPLATES.items():
        assert len(table["train"]) >= 3, name
    for name in ("local_add", "local_remove", "replace", "local_change/colour", "background_change"):
        assert len(TEMPLATES[name]["train"]) >= 8


def test_look_instructions_of_the_splits_are_disjoint_and_cover_every_look():
    assert set(LOOK_WORDINGS) == set(LOOKS)
    said = {split: set() for split in SPLITS}
    for split in SPLITS:
        for look in LOOKS:
            draw = Draw(split, look)
            said[split] |= {plain(look_instruction(look, split, draw)) for _ in range(800 if split == "train" else 3)}
    for first, second in combinations(SPLITS, 2):
        assert not said[first] & said[second]


def test_an_instruction_is_a_sentence_around_its_clause():
    draw = Draw("finish")
    for _ in range(50):
        text = finish("remove the fox", "train", draw)
        assert "remove the fox" in text.lower()
        assert not text.endswith("..")


def test_articles():
    assert with_article("orange fox") == "an orange fox"
    assert with_article("unicorn") == "a unicorn"
    assert with_article("small owl") == "a small owl"
