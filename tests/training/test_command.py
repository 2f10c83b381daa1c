"""`sama train` as a user types it: runs, estimates, curves."""

import json
import re
from dataclasses import asdict

import pytest
import yaml
from typer.testing import CliRunner

from sama_video.cli.app import app, normalise_arguments
from sama_video.system.errors import UserError
from sama_video.training.config import LoopConfig
from sama_video.training.overrides import as_settings, find_stages, with_settings
from sama_video.training.recipes import RECIPES, smoke
from sama_video.video import VideoReader
from tests import commands, tiny
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
        ("objective.semantic_grid=5", "objective.semantic_grid must be 4, 6 or 8, got 5"),
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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loop.steps=3", "--set loop.steps: unknown 'steps'; there is num_steps, micro_tokens, "),
        ("data.cache.size=3", "--set data.cache.size: unknown 'size'; there is nothing below it"),
        ("data.datasets.first.name=x", "unknown 'first'; there is a list, whose items have numbers"),
        ("data.datasets.7.name=x", "--set data.datasets.7.name: '7' is no index of a list of 2; use 0 to 1"),
        ("optimizer.kind=sgd", "--set optimizer.kind=sgd: use 'adamw', 'adamw8bit' or 'muon'"),
        ("logging.trackers=wandb,paper", "--set logging.trackers=wandb,paper: use 'tensorboard', 'wandb' or 'trackio'"),
        ("logging.project=", "logging.project must not be empty"),
        ("data.validation.num_samples=0", "one sample or more, or data.validation.clips"),
        ("loop.num_steps=few", "--set loop.num_steps=few: 'few' should be a valid integer"),
        ("data.aspect_ratios=1,wide", "--set data.aspect_ratios=1,wide: 'wide' should be a valid number"),
        ("data.pretext=perhaps", "--set data.pretext=perhaps: 'perhaps' should be a valid boolean"),
        ("model.lora=many", "--set model.lora=many: set one of its fields, for example model.lora.FIELD=VALUE"),
        ("loop", "--set takes key=value, got 'loop'"),
    ],
)
def test_settings_that_do_not_fit_say_what_would(setting, message):
    with pytest.raises(UserError, match=re.escape(message)):
        find_stages("nano-pretraining", [setting])


def test_the_config_of_a_run_takes_the_place_of_a_recipe(tmp_path):
    stages = find_stages("smoke")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(asdict(stages[0])))
    assert find_stages(None, file=file) == stages[:1]
    assert find_stages(None, ["loop.seed=5"], file) == find_stages("smoke", ["loop.seed=5"])[:1]
    both = tmp_path / "run.yaml"
    both.write_text(yaml.safe_dump(json.loads(json.dumps([asdict(stage) for stage in stages]))))
    assert find_stages(None, file=both) == stages
    lines = sama("train", "--config", both, "--dry-run", "--device", "a100-80gb").splitlines()
    assert lines == sama("train", "smoke", "--dry-run", "--device", "a100-80gb").splitlines()


def numbers(folder):
    """What a stage logged, without what differs from run to run."""
    kept = ("step", "loss", "flow_by_sigma", "gradient_norm", "learning_rate", "validation")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name in kept} for line in lines]


def test_the_config_that_a_run_writes_makes_the_same_run_again(init, tmp_path):
    """Of all its stages in the run's folder, of one stage in that stage's."""
    first, again, stage = tmp_path / "first", tmp_path / "again", tmp_path / "stage"
    changes = {"loop.precision": "float32", "loop.validate_every": 0}
    sama("train", "smoke", "--out", first, *settings(init, **changes))
    sama("train", "--config", first / "config.json", "--out", again)
    sama("train", "--config", first / "nano_finetuning" / "config.json", "--out", stage)
    weights = "export/transformer/diffusion_pytorch_model.safetensors"
    for name, other in (("nano_pretraining", again), ("nano_finetuning", again), ("nano_finetuning", stage)):
        assert numbers(other / name) == numbers(first / name)
        assert (other / name / weights).read_bytes() == (first / name / weights).read_bytes()
    assert numbers(first / "nano_pretraining") != numbers(first / "nano_finetuning")
    assert (again / "config.json").read_bytes() == (first / "config.json").read_bytes()
    assert str(first) in sama("train", "--config", first / "config.json", "--out", first, "--resume")


def test_a_file_says_only_what_differs(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        """
name: short
model: {init: nano}
data:
  datasets: [{name: mine, manifest: mine.csv}]
  validation: {size: [64, 64]}
loop: {num_steps: 3, ema_decay: 9e-1}
"""
    )
    (stage,) = find_stages(None, file=file)
    assert stage.data.validation.size == (64, 64)
    assert stage.loop == LoopConfig(num_steps=3, ema_decay=0.9)


def test_the_columns_of_all_manifests_are_said_once(tmp_path):
    """As a mapping in a file, as FIELD=COLUMN after --set, and back from what a run writes."""
    file = tmp_path / "run.yaml"
    file.write_text(
        """
name: short
model: {init: nano}
data:
  columns: {source: before, target: after, prompt: words}
  datasets: [{name: mine, manifest: mine.csv}, {name: other, manifest: other.csv, columns: {source: old}}]
loop: {num_steps: 3}
"""
    )
    (stage,) = find_stages(None, file=file)
    assert stage.data.columns == ("source=before", "target=after", "prompt=words")
    assert stage.data.datasets[1].columns == ("source=old",)
    assert with_settings(stage, ["data.columns="]).data.columns == ()
    (again,) = find_stages(None, ["data.columns=source=before,target=after,prompt=words"], file)
    assert again == stage
    assert with_settings(stage, as_settings(stage)) == stage


def test_a_column_that_there_is_not_is_said_with_those_that_there_are(init, tmp_path):
    write_clip(tmp_path / "clip.mp4", 5)
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("before,after,words\nclip.mp4,clip.mp4,make it green\n")
    data = settings(init, **{"data.datasets": manifest, "data.frame_counts": "1,5", "loop.validate_every": 0})
    for columns, message in (
        ("source=before,target=now,prompt=words", "has no column 'now' for tgt_video; it has before, after, words"),
        ("source=before,target=after", "no known layout fits the columns words: there is no prompt"),
        ("sauce=before", "--set data.columns knows no field 'sauce'; use one of source, target, id, "),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            sama("train", "nano-finetuning", "--out", tmp_path / "run", *data, "--set", f"data.columns={columns}")
    assert not (tmp_path / "run").exists()
    columns = ["--set", "data.columns=source=before,target=after,prompt=words"]
    sama("train", "nano-finetuning", "--out", tmp_path / "run", *data, *columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x", "run.yaml model: it is required"),
        ("name: [", "cannot read"),
        ("7", "run.yaml holds no config"),
        (
            "{name: x, model: {init: nano}, loop: {num_steps: 1}, data: {dataset: []}}",
            "run.yaml data.dataset: unknown 'dataset'; there is datasets, ",
        ),
        (
            "{name: x, model: {init: nano}, loop: {num_steps: few}, data: {datasets: [{name: a, manifest: a.csv}]}}",
            "run.yaml loop.num_steps: 'few' should be a valid integer",
        ),
        (
            "{name: x, model: {init: nano}, loop: {num_steps: 0}, data: {datasets: [{name: a, manifest: a.csv}]}}",
            "loop.num_steps must be at least 1, got 0",
        ),
    ],
)
def test_files_that_hold_no_run_say_why(content, message, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        find_stages(None, file=file)


def test_a_run_needs_a_recipe_or_a_file(tmp_path):
    for words in (("train",), ("train", "smoke", "--config", tmp_path / "config.json")):
        with pytest.raises(UserError, match="name a recipe, or a file of a run with `config`, and not both"):
            sama(*words)


@pytest.mark.slow
def test_the_smoke_recipe_runs_as_it_is(tmp_path):
    finished = commands.sama("train", "smoke", "--out", tmp_path / "smoke")
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "smoke" / "nano_finetuning" / "export" / "model_index.json").is_file()
