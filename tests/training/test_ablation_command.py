"""`sama train ablation-...` as a user types it, on tiny models."""

import shutil

import pytest

from sama_video.system.errors import UserError
from sama_video.training.ablations import ABLATIONS
from tests import tiny
from tests.models.test_semantic_encoder import vision_model
from tests.training.test_command import sama


@pytest.fixture(scope="module")
def tiny_settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pipe = tiny.pipeline(default_num_inference_steps=1, default_guidance_scale=1.0)
    pipe.transformer.reset_new_parts()
    pipe.save_pretrained(folder / "init")
    vision_model(hidden_size=12).save_pretrained(folder / "siglip")
    values = {
        "model.init": folder / "init",
        "model.semantic_encoder": folder / "siglip",
        "data.datasets.0.engine.shapes": "1x64x64",
        "data.datasets.1.engine.shapes": "5x64x64",
        "data.frame_counts": "1,5",
        "data.area": 64 * 64,
        "data.image_batch_size": 2,
        "data.video_batch_size": 1,
        "data.num_workers": 0,
        "loop.num_steps": 2,
    }
    return ["--items", 1, *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


@pytest.mark.slow
def test_a_set_trains_resumes_and_draws_its_tables(tiny_settings, tmp_path):
    out = tmp_path / "components"
    arguments = ("train", "ablation-components", "--out", out, "--seeds", 1, *tiny_settings)
    output = sama(*arguments)
    names = [f"{variant.name}-0" for variant in ABLATIONS["components"].variants]
    assert str(out / "ablation.md") in output
    assert "| SAMA | **7.402** |" in output
    text = (out / "ablation.md").read_text()
    assert all(f"| {variant.title} |" in text for variant in ABLATIONS["components"].variants)
    assert "after stage 0 (zero-shot)" in text
    trained = {path: path.read_bytes() for path in out.glob("*/*/metrics.jsonl")}
    assert {path.parts[-3] for path in trained} == set(names)
    assert len(trained) == 8

    # Called again it trains nothing.
    assert sama(*arguments) == output
    assert {path: path.read_bytes() for path in trained} == trained

    # A run that was stopped resumes where it was, and nothing else is touched.
    shutil.rmtree(out / "ma-0" / "small_finetuning")
    with pytest.raises(UserError, match="`resume`"):
        sama(*arguments)
    assert sama(*arguments, "--resume") == output
    kept = [path for path in trained if "ma-0/small_finetuning" not in path.as_posix()]
    assert len(kept) == 7
    assert all(path.read_bytes() == trained[path] for path in kept)
    with pytest.raises(UserError, match="another budget"):
        sama(*arguments, "--resume", "--set", "loop.num_steps=3")


@pytest.mark.slow
def test_roles_begin_with_weights_that_tell_neither_way(tiny_settings, tmp_path):
    out = tmp_path / "roles"
    output = sama("train", "ablation-roles", "--out", out, "--seeds", 1, *tiny_settings)
    assert {path.name for path in out.glob("*-0")} == {"type-0", "shifted-rope-0"}
    assert "| type embeddings |" in output


@pytest.mark.parametrize(
    ("command", "recipe", "runs"),
    [
        pytest.param("ablation-components", "nano-small", 4, marks=pytest.mark.slow),
        pytest.param("ablation-components", "components-5b", 4, marks=pytest.mark.slow),
        ("ablation-roles", "roles-5b", 2),
        ("ablation-source-attention", "roles-5b", 2),
    ],
)
def test_a_dry_run_estimates_every_variant(command, recipe, runs):
    output = sama("train", command, recipe, "--dry-run", "--device", "h100-80gb")
    assert output.count("one of 2 seeds") == runs
    assert output.count("\nmemory ") >= runs


def test_a_set_needs_a_folder():
    with pytest.raises(UserError, match="--out"):
        sama("train", "ablation-roles")
