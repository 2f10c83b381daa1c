"""A damaged, wrong or hostile folder gives one sentence and nothing else; never a result of other weights."""

import random
import shutil

import pytest
import torch

from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.system.errors import UserError
from tests import tiny
from tests.pipelines.mutations import MUTATIONS

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS = ("transformer", "vae", "text_encoder")
SLOW_CASES, SEED = 200, 20251125
HARMLESS = ("double_precision", "tensors_in_pytorchs_format", "shards", "code_named_by_a_tokenizer", "more_files")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "original"
    tiny.pipeline().save_pretrained(folder)
    return folder, load_pipeline(str(folder))


def settings_of(pipe: SamaPipeline) -> list[dict]:
    configs = [
        dict(pipe.config),
        *(getattr(pipe, name).config for name in PARTS[:2]),
        pipe.text_encoder.config.to_dict(),
    ]
    return [{key: value for key, value in config.items() if not key.startswith("_")} for config in configs]


def is_same(one: SamaPipeline, other: SamaPipeline) -> bool:
    """Whether weights and settings are, to the bit."""
    for name in PARTS:
        first, second = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        if first.keys() != second.keys() or not all(torch.equal(first[key], second[key]) for key in first):
            return False
    return settings_of(one) == settings_of(other) and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def outcome(original, folder, name: str, seed: int) -> str:
    """The sentence of a mutated folder, or "same" if it loads as what it was."""
    source, expected = original
    shutil.copytree(source, folder)
    MUTATIONS[name](folder, random.Random(f"{name} {seed}"))
    try:
        pipe = load_pipeline(str(folder))
    except UserError as error:
        result = str(error)
        assert "\n" not in result, (name, seed, result)
        assert str(folder) in result, (name, seed, result)
        assert len(result) < 2000, (name, seed, result)
    else:
        assert is_same(pipe, expected), (name, seed)
        result = "same"
    assert not (folder / "code_ran").exists(), (name, seed)
    shutil.rmtree(folder)
    return result


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_every_kind_once(name, original, tmp_path):
    result = outcome(original, tmp_path / "mutated", name, 0)
    if name in HARMLESS:
        assert result == "same"


@pytest.mark.slow
def test_200_mutated_folders(original, tmp_path):
    rng = random.Random(SEED)
    names = sorted(MUTATIONS)
    results = [
        outcome(original, tmp_path / str(number), names[number % len(names)], rng.randrange(1, 10**9))
        for number in range(SLOW_CASES)
    ]
    assert sum(result != "same" for result in results) > SLOW_CASES * 0.8
