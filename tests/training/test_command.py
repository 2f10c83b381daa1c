"""`sama train` as a user types it: runs, estimates, curves."""

import json
import re

import pytest
from typer.testing import CliRunner

from sama_video.cli.app import app, normalise_arguments
from sama_video.system.errors import UserError
from sama_video.training.config import as_settings, with_settings
from sama_video.training.recipes import RECIPES, find_stages, smoke
from sama_video.video import VideoReader
from tests import tiny
from tests.clips import write_clip


def sama(*arguments):
    """The command in this process: importing torch takes longer than a tiny run."""
    result = CliRunner().invoke(app, normalise_arguments([str(part) for part in arguments]))
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "init"
    tiny.pipeline().save_pretrained(folder)
    return folder


def settings(init, **changes):
    values = {
        "model.init": init,
        "model.semantic_encoder": "none",
        "model.train_text_encoder": "false",
        "data.num_workers": 0,
        "data.image_batch_size": 2,
        "data.video_batch_size": 1,
        "data.validation.families": "local_add",
        "data.validation.num_frames": 5,
        "loop.num_steps": 2,
    } | changes
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def test_both_stages_run_and_the_result_edits_a_clip(init, tmp_path):
    out = tmp_path / "runs"
    output = sama("train", "smoke", "--out", out, *settings(init))
    exported = out / "nano_finetuning" / "export"
    assert str(exported) in output
    for stage in ("nano_pretraining", "nano_finetuning"):
        written = {path.name for path in (out / stage).iterdir()}
        assert written >= {
            "config.json",
            "provenance.json",
            "environment.jsonl",
            "metrics.jsonl",
            "validation",
            "export",
        }
        lines = [json.loads(line) for line in (out / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2]
        assert [line["step"] for line in lines if "validation" in line] == [2]
    provenance = json.loads((out / "nano_finetuning" / "provenance.json").read_text())
    assert provenance["initial_weights"]["name"] == str(out / "nano_pretraining" / "export")

    clip = write_clip(tmp_path / "clip.mp4", 5)
    sama("edit", clip, "make it sepia", "--model", exported, "--num-inference-steps", 1, "-o", tmp_path / "edited.mp4")
    assert VideoReader(tmp_path / "edited.mp4").info.num_frames == 5

    with pytest.raises(UserError, match="`resume`"):
        sama("train", "smoke", "--out", out, *settings(init))
    assert str(exported) in sama("train", "smoke", "--out", out, "--resume", *settings(init))

    picture = tmp_path / "curves.svg"
    assert "loss" in sama("train", "plot", out, "--out", picture, "--metric", "loss", "--smooth", "2")
    assert "nano_finetuning" in picture.read_text()


def test_help_lists_every_recipe_and_the_other_commands():
    text = " ".join(sama("train", "--help").split())
    assert all(f"{name}:" in text for name in RECIPES)
    assert "sama train plot RUN..." in text
    assert "--smooth" in sama("train", "plot", "--help")
    assert "Train an editor" in sama("--help")


def test_options_may_stand_before_the_recipe(init, tmp_path):
    assert "steps" in sama("train", "--dry-run", *settings(init), "smoke")
    with pytest.raises(UserError, match="unknown recipe 'magic'"):
        sama("train", "--out", tmp_path, "magic")
    with pytest.raises(UserError, match="--out"):
        sama("train", "smoke")


def test_a_dry_run_prints_the_config_and_the_estimates_of_every_stage(init, tmp_path):
    lines = sama("train", "smoke", "--dry-run", "--device", "a100-80gb", *settings(init)).splitlines()
    assert "optimizer.kind=muon" in lines
    assert "model.init=previous" in lines
    assert sum(line.startswith("memory") for line in lines) == 2
    assert not list(tmp_path.iterdir())


def test_where_a_run_begins_counts_for_its_first_stage():
    stages = find_stages("smoke", ["model.init=elsewhere", "loop.num_steps=3"])
    assert [stage.model.init for stage in stages] == ["elsewhere", "previous"]
    assert {stage.loop.num_steps for stage in stages} == {3}


def test_printed_settings_give_the_config_back():
    stage = smoke()[0]
    changes = ("loop.seed=7", "objective.text_dropout=0.5", "data.aspect_ratios=1.0", "model.train_text_encoder=false")
    other = with_settings(stage, [*changes, "data.cache=somewhere"])
    lines = as_settings(stage)
    assert other != stage
    assert with_settings(other, lines) == stage


def test_manifests_take_the_place_of_a_recipe_s_datasets():
    (stage,) = find_stages("lora-finetuning", ["data.datasets=mine/manifest.csv,other.csv"])
    found = [(one.name, one.manifest, one.catalogue) for one in stage.data.datasets]
    assert found == [(name, name, None) for name in ("mine/manifest.csv", "other.csv")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.datasets.0.weight=0", "weight of dataset image edits must be above 0"),
        ("data.datasets.0.name=captioned clips", "data.datasets holds 'captioned clips' twice"),
        ("data.datasets=", "data.datasets"),
        ("data.pretext_variants=0", "data.pretext_variants must be at least 1"),
        ("data.num_workers=-1", "data.num_workers must be at least 0"),
        ("data.num_workers=1000", "data.num_workers must be at most 256"),
        ("data.prefetch_factor=0", "data.prefetch_factor must be at least 1"),
        ("data.image_batch_size=0", "data.image_batch_size must be at least 1"),
        ("data.video_batch_size=-1", "data.video_batch_size must be at least 1"),
        ("data.frame_counts=1,16", "data.frame_counts must be 4k+1, got 16; use 13 or 17"),
        ("data.datasets.0.engine.shapes=1,64,64", "shapes=1,64,64: 3 values belong together, got 1"),
        ("data.validation.size=64", "size=64: 2 values belong together, got 1"),
    ],
)
def test_data_that_cannot_be_are_refused_by_name(setting, message):
    with pytest.raises(UserError, match=re.escape(message)):
        find_stages("nano-pretraining", [setting])


def test_settings_that_fit_together_may_come_in_any_order():
    """A source by channel and pretext tasks exclude each other, also for a moment."""
    fitting = ["model.source=channel", "data.pretext=false"]
    assert with_settings(smoke()[0], fitting) == with_settings(smoke()[0], fitting[::-1])
    with pytest.raises(UserError, match="pretext"):
        with_settings(smoke()[0], fitting[:1])
