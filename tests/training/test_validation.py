"""Validation looks at a run and leaves it as it is."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed as dist
from diffusers.models.cache_utils import CacheMixin
from torch.distributed.fsdp import fully_shard

from sama_video.data.pretext import PROMPTS
from sama_video.models.autoencoder_sama_nano import AutoencoderSamaNano
from sama_video.synth.edits import FAMILIES
from sama_video.system.errors import UserError
from sama_video.training.config import (
    DataConfig,
    DatasetConfig,
    EngineConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
    ValidationConfig,
)
from sama_video.training.logs.runlog import read_metrics
from sama_video.training.parallel import Parallel
from sama_video.training.stages import run_stages
from sama_video.training.trainer import Trainer
from sama_video.training.validation import Validation, find_cases, pretext_cases, write_result
from sama_video.video import VideoReader, write_lossless
from tests import tiny

# Pictures: the tiny autoencoder takes longest.
SET = ValidationConfig(size=(64, 64), num_frames=1, num_inference_steps=2, families=("local_add", "global_style"))
TIMES = ("seconds", "waited", "tokens_per_second", "memory_gib")


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "init"
    tiny.pipeline().save_pretrained(folder)
    return folder


def config(init, validation=SET, **loop):
    """Four steps over pictures and captioned clips, tried after the second and the fourth."""
    images = EngineConfig(num_samples=4, shapes=((1, 64, 64),))
    clips = EngineConfig(num_samples=4, shapes=((5, 64, 64),), text_to_video=True)
    return TrainConfig(
        name="tiny",
        model=ModelConfig(init=str(init)),
        data=DataConfig(
            datasets=(DatasetConfig(name="images", engine=images), DatasetConfig(name="clips", engine=clips)),
            area=64 * 64,
            frame_counts=(1, 5),
            image_batch_size=2,
            video_batch_size=2,
            num_workers=0,
            validation=validation,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-3, warmup_steps=1),
        loop=LoopConfig(
            **({"num_steps": 4, "validate_every": 2, "precision": "float32", "gradient_checkpointing": False} | loop)
        ),
    )


def trainer(run, out):
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(run, out, Parallel.start(ParallelConfig()))


def train(run, out):
    one = trainer(run, out)
    one.resume()
    one.train()
    return one


def records(out):
    return read_metrics(out / "metrics.jsonl")


def timeless(out):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records(out)]


def steps_only(found):
    return [record for record in found if "validation" not in record]


def validations(found):
    return [record for record in found if "validation" in record]


def test_the_set_is_every_family_and_task_with_exact_masks():
    cases = find_cases(ValidationConfig(size=(64, 64), num_frames=9), with_pretext=True)
    assert [case.family for case in cases] == [*FAMILIES, *PROMPTS]
    for case in cases[: len(FAMILIES)]:
        assert case.is_edit
        np.testing.assert_array_equal(case.source[~case.mask], case.target[~case.mask])
        assert (case.source[case.mask] != case.target[case.mask]).any()
    again = find_cases(ValidationConfig(size=(64, 64), num_frames=9), with_pretext=True)
    assert all(np.array_equal(a.source, b.source) and a.prompt == b.prompt for a, b in zip(cases, again, strict=True))
    assert len(find_cases(ValidationConfig(size=(64, 64), num_samples=2, num_frames=1), with_pretext=False)) == 16


def test_pretext_cases_are_the_tasks_of_training():
    clip = np.random.default_rng(0).integers(1, 255, (9, 32, 32, 3), dtype=np.uint8)
    cube, speed, tubes = pretext_cases(clip, "a caption")
    assert cube.prompt == f"{PROMPTS['cube_inpainting']} a caption"
    blackened = (cube.source == 0).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(cube.mask, np.broadcast_to(blackened[:, None, None], cube.mask.shape))
    np.testing.assert_array_equal(speed.source, clip[::2])
    assert speed.mask is None
    assert sorted(tubes.source.ravel()) == sorted(clip.ravel())
    np.testing.assert_array_equal(tubes.source[-1], clip[-1])
    *_, earlier = pretext_cases(clip, "a caption", keep_last_frame=False)
    assert sorted(earlier.source[5:].ravel()) == sorted(clip[5:].ravel())
    assert sorted(tubes.source[4:].ravel()) != sorted(clip[4:].ravel())


def tried(validation, model, step):
    return validation.score(step, validation.sample(model))


@pytest.mark.slow
def test_a_run_trains_the_same_with_validation_and_without(init, tmp_path):
    watched = train(config(init), tmp_path / "watched")
    alone = train(config(init, validate_every=0), tmp_path / "alone")
    assert steps_only(timeless(tmp_path / "watched")) == timeless(tmp_path / "alone")
    torch.testing.assert_close(watched.model.state_dict(), alone.model.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(watched.ema.averages, alone.ema.averages, atol=0, rtol=0)
    assert watched.model.training
    assert not watched.pipe.vae.training


@pytest.mark.slow
def test_a_resumed_run_tells_the_same_as_an_uninterrupted_one(init, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run = config(init, save_minutes=0.0, keep_checkpoints=9)
    train(run, whole)
    shutil.copytree(whole, cut)
    for folder in ("checkpoints/step-0000003", "checkpoints/step-0000004", "validation/step-0000004"):
        shutil.rmtree(cut / folder)
    train(run, cut)
    assert timeless(cut) == timeless(whole)
    assert [record["step"] for record in validations(records(cut))] == [2, 4]
    for name in ("metrics.json", "sheet.png"):
        paths = [out / "validation" / "step-0000004" / name for out in (whole, cut)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_sharded_weights_are_gathered_anew_after_a_validation(init, tmp_path):
    """FSDP2 keeps the root's gathered weights after a forward pass without a backward one, stale or not."""

    def scores_before_and_after_a_step(out, prepare):
        one = trainer(config(init, replace(SET, families=("local_add",))), out)
        prepare(one.pipe.transformer)
        validation = Validation(one.config, one.encoder)
        weights = dict(one.pipe.transformer.named_parameters())
        before = tried(validation, one.model, 0)
        with torch.no_grad():
            weights["proj_out.weight"].mul_(1.5)
        return before.families, tried(validation, one.model, 1).families

    expected = scores_before_and_after_a_step(tmp_path / "whole", lambda _: None)
    assert expected[0] != expected[1]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert scores_before_and_after_a_step(tmp_path / "sharded", fully_shard) == expected
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_the_same_with_validation_and_without(init, tmp_path):
    """And find the same scores as one process does."""
    settings = {
        "model.init": init,
        "model.semantic_encoder": "none",
        "model.train_text_encoder": "false",
        "data.num_workers": 0,
        "data.validation.families": "local_add",
        "loop.num_steps": 4,
        "loop.precision": "float32",
        "optimizer.kind": "adamw",
    }

    def smoke(out, validate_every, world_size):
        pairs = [f"{name}={value}" for name, value in (settings | {"loop.validate_every": validate_every}).items()]
        options = [part for pair in pairs for part in ("--set", pair)]
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
        command = [sys.executable, *launch, "-m", "sama_video.cli", "train", "smoke", "--out", str(out), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        return records(out / "nano_pretraining")

    watched, alone = smoke(tmp_path / "watched", 2, 2), smoke(tmp_path / "alone", 0, 2)
    single = smoke(tmp_path / "single", 2, 1)
    losses = [[record["loss"] for record in steps_only(found)] for found in (watched, alone)]
    torch.testing.assert_close(*losses, atol=1e-7, rtol=0)
    scores = [[record["validation"]["all"]["psnr"] for record in validations(found)] for found in (watched, single)]
    assert len(scores[0]) == 2
    torch.testing.assert_close(*scores, atol=0.05, rtol=0)


def test_the_report_lies_in_the_runs_folder(init, tmp_path):
    train(config(init, replace(SET, num_frames=9), num_steps=2), tmp_path)
    folder = tmp_path / "validation" / "step-0000002"
    told = validations(records(tmp_path))[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["families"] == told["validation"]
    edits = [case for case in metrics["cases"] if case["family"] in SET.families]
    assert told["validation"]["all"]["psnr"] == pytest.approx(np.mean([case["psnr"] for case in edits]))
    clips = sorted((folder / "clips").iterdir())
    assert [clip.stem.split("-")[1] for clip in clips] == [*SET.families, *PROMPTS]
    assert {VideoReader(clip).info.width for clip in clips} == {3 * 64}
    assert {VideoReader(clip).info.num_frames for clip in clips} == {9}
    with PIL.Image.open(folder / "sheet.png") as sheet:
        assert sheet.height > len(clips) * 96


def test_the_averaged_weights_are_tried(init, tmp_path):
    one = trainer(config(init, replace(SET, families=("local_add",))), tmp_path)
    validation = Validation(replace(one.config, data=replace(one.config.data, pretext=False)), one.encoder)
    before = tried(validation, one.model, 0)
    with torch.no_grad():
        one.model.transformer.proj_out.weight.add_(1.0)
    with one.ema.applied():
        averaged = tried(validation, one.model, 0)
    changed = tried(validation, one.model, 0)
    assert averaged.families == before.families
    assert changed.families != before.families


def test_a_models_oracle_scores_what_the_autoencoder_allows(init, tmp_path):
    """Predicting the true velocity gives back the encoded target, in one step and in many."""
    one = trainer(config(init, replace(SET, num_frames=5, families=("local_add",))), tmp_path)
    validation = Validation(one.config, one.encoder)
    current = {}

    class Oracle(torch.nn.Module, CacheMixin):
        config, dtype, device = one.pipe.transformer.config, torch.float32, torch.device("cpu")

        def forward(self, x_sigma, timestep, semantic_hidden_states=None, return_dict=True, **_):
            velocity = (x_sigma - current["target"]) / (timestep.view(-1, 1, 1, 1, 1) / 1000)
            semantic = None if semantic_hidden_states is None else torch.zeros_like(semantic_hidden_states)
            return type("Output", (), {"sample": velocity}) if return_dict else (velocity, semantic)

    one.pipe.register_modules(transformer=Oracle())
    for number, (case, encoded) in enumerate(zip(validation.cases, validation.encoded, strict=True)):
        current["target"] = encoded.target[None]
        decoded = validation._decode(case, encoded.target[None])
        for latents in (validation._sample(case, encoded, number), validation._predict_at_once(case, encoded, number)):
            difference = validation._decode(case, latents).astype(int) - decoded
            assert np.abs(difference).max() <= 1


def test_a_decoder_that_sees_the_source_is_given_sources_of_the_targets_length(tmp_path):
    """Without components every latent says that nothing changed: the source comes back, where there is one."""
    pipe = tiny.pipeline()
    pipe.vae = AutoencoderSamaNano(z_dim=4, decoder_width=8, decoder_layers=1, source_width=8, source_layers=1)
    pipe.save_pretrained(tmp_path / "init")
    run = config(tmp_path / "init", replace(SET, num_frames=9, families=("local_add",)))
    one = trainer(run, tmp_path / "run")
    found = {result.case.family: result for result in tried(Validation(run, one.encoder), one.model, 0).results}
    assert found["local_add"].scores["psnr_outside"] > 35
    assert found["tube_shuffle"].scores["psnr"] < found["local_add"].scores["psnr"]
    faster = found["speed_perturbation"]
    assert len(faster.case.source) < len(faster.edited) == len(faster.case.target)


def test_a_manifest_of_held_out_pairs(init, tmp_path):
    rng = np.random.default_rng(0)
    clips = {name: rng.integers(0, 255, (7, 64, 64, 3), dtype=np.uint8) for name in ("source", "target", "caption")}
    clips["mask"] = np.zeros((7, 64, 64, 3), dtype=np.uint8)
    clips["mask"][:, :32] = 255
    for name, pixels in clips.items():
        write_lossless(tmp_path / f"{name}.mp4", pixels, Fraction(8))
    manifest = tmp_path / "held_out.csv"
    manifest.write_text(
        "src_video,tgt_video,mask,prompt,type\n"
        "source.mp4,target.mp4,mask.mp4,make it so,style/art\n,caption.mp4,,a caption,\n"
    )
    kept = ValidationConfig(manifest=str(manifest), size=(64, 64), num_frames=9, num_samples=9)
    cases = find_cases(kept, with_pretext=True)
    assert [case.family for case in cases] == ["style/art", "cube_inpainting", "tube_shuffle"]
    np.testing.assert_array_equal(cases[0].target, clips["target"][:5])
    assert cases[0].mask[:, :32].all()
    assert not cases[0].mask[:, 32:].any()
    run = config(init, kept)
    one = trainer(run, tmp_path / "run")
    report = tried(Validation(run, one.encoder), one.model, 1)
    assert set(report.families) == {"style/art", "all", "cube_inpainting", "tube_shuffle"}
    assert (write_result(report, tmp_path) / "clips" / "00-style-art.mp4").is_file()
    manifest.write_text("tgt_video,prompt\ncaption.mp4,a caption\n")
    with pytest.raises(UserError, match="nothing to try"):
        Validation(replace(run, data=replace(run.data, pretext=False)), one.encoder)


def test_sizes_that_the_model_cannot_take_are_refused(init, tmp_path):
    wrong = config(init, replace(SET, size=(60, 64)))
    with pytest.raises(UserError, match="size=64,64"):  # before the first step
        trainer(wrong, tmp_path)
    with pytest.raises(UserError, match="use 5 or 9"):
        ValidationConfig(num_frames=8)
    with pytest.raises(UserError, match="global_style"):
        ValidationConfig(families=("magic",))


def write_clips(folder, rows, columns="video,prompt,target"):
    manifest = folder / "my_validation.csv"
    manifest.write_text("\n".join([columns, *rows]) + "\n")
    return str(manifest)


def test_the_users_own_clips_are_edited_beside_the_set_and_scored_where_a_target_is_known(init, tmp_path):
    rng = np.random.default_rng(0)
    clips = {
        "wide": rng.integers(0, 255, (7, 40, 80, 3), dtype=np.uint8),
        "flat": rng.integers(0, 255, (9, 64, 64, 3), dtype=np.uint8),
        "wanted": rng.integers(0, 255, (5, 64, 64, 3), dtype=np.uint8),
    }
    for name, pixels in clips.items():
        write_lossless(tmp_path / f"{name}.mp4", pixels, Fraction(8))
    PIL.Image.fromarray(clips["flat"][0]).save(tmp_path / "still.png")
    rows = ["wide.mp4,make it red,", "flat.mp4,make it so,wanted.mp4", "still.png,make it blue,"]
    mine = replace(SET, families=("local_add",), num_frames=9, clips=write_clips(tmp_path, rows))
    train(config(init, mine, num_steps=2), tmp_path / "run")

    folder = tmp_path / "run" / "validation" / "step-0000002"
    told = json.loads((folder / "metrics.json").read_text())
    own = [case for case in told["cases"] if case["family"] == "clips"]
    assert [case["prompt"] for case in own] == ["make it red", "make it so", "make it blue"]
    assert ["psnr" in case for case in own] == [False, True, False]
    assert told["families"]["clips"]["psnr"] == own[1]["psnr"]
    engine = next(case for case in told["cases"] if case["family"] == "local_add")
    assert told["families"]["all"]["psnr"] == pytest.approx((engine["psnr"] + own[1]["psnr"]) / 2)

    found = {path.stem.split("-")[0]: path for path in (folder / "clips").iterdir() if "clips" in path.stem}
    wide, flat, still = (VideoReader(found[number]).info for number in sorted(found))
    # In the nearest aspect ratio at the set's area; source and edit, and the target where there is one.
    assert wide.width / 2 > wide.height
    assert (wide.num_frames, flat.num_frames, still.num_frames) == (5, 5, 1)
    assert (flat.height, flat.width) == (64, 3 * 64)
    assert (still.height, still.width) == (64, 2 * 64)
    first = next(iter(VideoReader(found[min(found)]).frames())).pixels
    assert first[:, : wide.width // 2].mean() == pytest.approx(clips["wide"][0].mean(), abs=8)


def test_a_run_may_be_tried_on_the_users_clips_alone(init, tmp_path):
    write_lossless(tmp_path / "clip.mp4", np.zeros((5, 64, 64, 3), dtype=np.uint8), Fraction(8))
    mine = replace(SET, num_samples=0, clips=write_clips(tmp_path, ["clip.mp4,make it red,"]))
    train(config(init, mine, num_steps=2), tmp_path / "run")
    assert validations(records(tmp_path / "run"))[0]["validation"] == {}
    assert len(list((tmp_path / "run" / "validation" / "step-0000002" / "clips").iterdir())) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("missing.mp4,make it red,", "missing.mp4"),
        ("broken.mp4,make it red,", "broken.mp4"),
        ("cut.mp4,make it red,", "cut.mp4"),
        ("clip.mp4,,", "row 00000001 of .* has no clip or no prompt"),
        ("clip.mp4,make it red,missing.mp4", "missing.mp4"),
    ],
)
def test_own_clips_that_cannot_be_used_are_found_before_the_first_stage(init, tmp_path, row, message):
    write_lossless(tmp_path / "clip.mp4", np.zeros((5, 64, 64, 3), dtype=np.uint8), Fraction(8))
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:900])
    first = config(init, validate_every=0)
    second = config("previous", replace(SET, clips=write_clips(tmp_path, [row])))
    with pytest.raises(UserError, match=message):
        run_stages([replace(first, name="first"), replace(second, name="second")], tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
