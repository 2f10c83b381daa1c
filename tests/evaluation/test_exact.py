import dataclasses
import shutil
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from sama_video.cli.app import app, normalise_arguments
from sama_video.data.manifest import Row, write_manifest
from sama_video.evaluation.aggregate import aggregate_exact
from sama_video.evaluation.benchmark import Item
from sama_video.evaluation.editors import CONTROLS, CommandEditor, ControlEditor
from sama_video.evaluation.exact import ExactConfig, read_clips, run_of_manifest, score_run
from sama_video.evaluation.predict import predict
from sama_video.evaluation.records import EXACT, PREDICTIONS, Prediction, RunInfo, predictions_of, read_run
from sama_video.media.metrics import LARGEST_PSNR, METRICS
from sama_video.system.errors import UserError
from sama_video.video import VideoReader, write_lossless
from tests.clips import write_clip

INFO = RunInfo(benchmark="engine", version="1", data="", editor="control")
ONE_WORKER = ExactConfig(workers=1)
WITH_TARGET = (
    *(f"{metric}{where}" for where in ("", "_inside", "_outside") for metric in ("psnr", "ssim", "haarpsi")),
    *("success", "flicker", "motion_error"),
)


def means(items, records):
    """Of every score over all items."""
    whole = aggregate_exact(items, records)[-1]
    return dict(zip(whole.columns, (interval.value for interval in whole.intervals()), strict=True))


@pytest.fixture(scope="module")
def controls(engine_items, tmp_path_factory):
    """control -> folder of its run."""
    folder = tmp_path_factory.mktemp("controls")
    for control in CONTROLS:
        predict(INFO, engine_items, ControlEditor(control=control, items=engine_items), folder / control)
        score_run(folder / control, ONE_WORKER)
    return folder


@pytest.fixture
def scores(controls, engine_items):
    return {name: means(engine_items, score_run(controls / name, ONE_WORKER)) for name in CONTROLS}


# Controls


def test_a_perfect_editor_has_the_best_of_every_score(scores):
    perfect = scores["perfect"]
    for name in WITH_TARGET:
        best = {"psnr": LARGEST_PSNR, "motion": 0}.get(name.split("_")[0], 1)
        assert perfect[name] == pytest.approx(best), name


def test_an_editor_that_does_nothing_preserves_all_and_succeeds_never(scores):
    identity = scores["identity"]
    assert identity["success"] == 0
    assert identity["psnr_outside"] == LARGEST_PSNR
    assert identity["ssim_outside"] == pytest.approx(1)
    assert identity["haarpsi_outside"] == pytest.approx(1)
    assert identity["psnr_inside"] < 25


@pytest.mark.parametrize("name", [name for name in WITH_TARGET if name not in ("success", "flicker", "motion_error")])
def test_half_an_edit_lies_between_none_and_a_perfect_one(scores, name):
    assert scores["identity"][name] <= scores["half"][name] + 1e-9
    assert scores["half"][name] <= scores["perfect"][name] + 1e-9


@pytest.mark.parametrize("name", ["psnr", "ssim", "psnr_inside", "ssim_inside", "psnr_outside", "ssim_outside"])
def test_noise_is_the_worst(scores, name):
    assert min(scores, key=lambda control: scores[control][name]) == "noise"


def test_wrong_clips_and_noise_move_wrongly_and_noise_flickers(scores):
    worst = sorted(scores, key=lambda control: scores[control]["motion_error"])[-2:]
    assert set(worst) == {"wrong-clip", "noise"}
    assert max(scores, key=lambda control: scores[control]["flicker"]) == "noise"
    assert scores["noise"]["success"] == scores["wrong-clip"]["success"] == 0


def test_every_score_has_a_definition(scores):
    counted = {"resized", "length_difference"}
    assert set(scores["half"]) == {*WITH_TARGET, *counted}
    assert set(WITH_TARGET) <= METRICS.keys()
    assert all(metric.about and metric.title for metric in METRICS.values())


# Peers


def test_peers_come_in_as_commands(engine_items, scores, tmp_path):
    predict(INFO, engine_items, CommandEditor(template="cp {source} {output}"), tmp_path / "copy")
    assert means(engine_items, score_run(tmp_path / "copy", ONE_WORKER)) == scores["identity"]

    ffmpeg = f"{imageio_ffmpeg.get_ffmpeg_exe()} -loglevel error -i {{source}} -vf negate -pix_fmt yuv420p {{output}}"
    some = engine_items[:4]
    predict(INFO, some, CommandEditor(template=ffmpeg), tmp_path / "negate")
    negated = means(some, score_run(tmp_path / "negate", ONE_WORKER))
    assert negated["psnr_outside"] < 15 < scores["half"]["psnr_outside"]
    assert negated["success"] < 0.5
    # A negative moves as its source does: by this alone it could not be told from an edit.
    assert negated["motion_error"] < scores["wrong-clip"]["motion_error"]


# Going on


def lines(run):
    return (run / EXACT).read_bytes().count(b"\n")


def test_what_is_scored_is_left_and_what_changed_is_scored_again(controls, engine_items, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(controls / "half", run)
    first = score_run(run, ONE_WORKER)
    assert lines(run) == len(engine_items)
    assert score_run(run, ONE_WORKER) == first

    easier = score_run(run, ExactConfig(workers=2, success_factor=1.5))
    assert lines(run) == 2 * len(engine_items)
    assert all(record.scores["success"] == 1 for record in easier)

    (run / predictions_of(run)[engine_items[0].id].file).unlink()
    again = score_run(run, ExactConfig(workers=1, success_factor=1.5))
    assert again[0].status == "missing"
    assert again[1:] == easier[1:]


def test_a_torn_line_is_scored_again_and_ends_the_same(controls, engine_items, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(controls / "half", run)
    whole = score_run(run, ONE_WORKER)
    text = (run / EXACT).read_bytes()
    (run / EXACT).write_bytes(text[: len(text) // 2])
    assert score_run(run, ONE_WORKER) == whole
    assert lines(run) == len(engine_items)


def test_what_failed_and_what_is_broken_is_counted(engine_items, tmp_path):
    editor = CommandEditor(template="cp {source} {output}")
    predictions = predict(INFO, engine_items, editor, tmp_path)
    (tmp_path / predictions[1].file).write_bytes(b"no video")
    with (tmp_path / PREDICTIONS).open("a") as file:
        failed = Prediction(item=engine_items[2].id, status="failed", reason="it crashed")
        file.write(str(dataclasses.asdict(failed)).replace("'", '"') + "\n")
    records = score_run(tmp_path, ONE_WORKER)
    assert [record.status for record in records[:4]] == ["ok", "failed", "missing", "ok"]
    assert "not a video" in records[1].reason
    assert records[2].reason == "it crashed"


# Shapes


def clip(path, num_frames, height, width):
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 256, (num_frames, height // 8, width // 8, 3)), np.ones((1, 8, 8, 1)))
    write_lossless(path, frames.astype(np.uint8), Fraction(16))
    return frames.astype(np.uint8)


def item_of(source, **media):
    return Item(id="1", task="all", instruction="x", source=source, file_name="1.mp4", **media)


def test_edits_of_another_shape_are_compared_at_the_source_s_over_common_frames(tmp_path):
    frames = clip(tmp_path / "source.mp4", 6, 64, 96)
    write_lossless(tmp_path / "small.mp4", frames[:4, ::2, ::2], Fraction(16))
    write_lossless(tmp_path / "long.mp4", np.concatenate([frames, frames]), Fraction(16))
    item = item_of(tmp_path / "source.mp4", target=tmp_path / "source.mp4")
    small = read_clips(item, tmp_path / "small.mp4")
    assert (small.resized, small.length_difference) == (True, -2)
    assert small.source.shape == small.prediction.shape == (4, 64, 96, 3)
    assert small.target is not None
    assert np.array_equal(small.target, frames[:4])
    long = read_clips(item, tmp_path / "long.mp4")
    assert (long.resized, long.length_difference) == (False, 6)
    assert np.array_equal(long.prediction, frames)


def test_masks_are_videos_pictures_or_folders_of_pictures(tmp_path):
    frames = clip(tmp_path / "source.mp4", 3, 64, 96)
    mask = np.zeros_like(frames)
    mask[:, 16:32, 8:40] = 255
    write_lossless(tmp_path / "mask.mp4", mask, Fraction(16))
    (tmp_path / "masks").mkdir()
    for index, picture in enumerate(mask):
        PIL.Image.fromarray(picture).save(tmp_path / "masks" / f"{index:05d}.png")
    for name in ("mask.mp4", "masks", "masks/00000.png"):
        item = item_of(tmp_path / "source.mp4", mask=tmp_path / name)
        clips = read_clips(item, tmp_path / "source.mp4")
        assert clips.mask is not None
        assert np.array_equal(clips.mask, mask[..., 0] > 0), name


# Pairs without a target


def test_without_a_target_an_edit_is_measured_against_its_source(tmp_path):
    write_clip(tmp_path / "source.mp4", 5)
    frames = np.stack([frame.pixels for frame in VideoReader(tmp_path / "source.mp4").frames()])
    write_lossless(tmp_path / "darker.mp4", frames // 2, Fraction(24))
    shutil.copy(tmp_path / "source.mp4", tmp_path / "same.mp4")
    rows = [
        Row(id=name, src_video=str(tmp_path / "source.mp4"), prompt="Darker", extra={"edited": f"{name}.mp4"})
        for name in ("same", "darker", "absent")
    ]
    write_manifest(tmp_path / "pairs.csv", [*rows, dataclasses.replace(rows[0], id="empty", extra={})])
    run_of_manifest(tmp_path / "pairs.csv", "edited", tmp_path / "run", "peer")
    same, darker, absent, empty = score_run(tmp_path / "run", ONE_WORKER)
    assert same.scores.keys() - {"resized", "length_difference"} == {
        *(f"{name}_to_source" for name in ("psnr", "ssim", "haarpsi", "flicker", "motion_error")),
    }
    assert same.scores["psnr_to_source"] == LARGEST_PSNR
    assert same.scores["motion_error_to_source"] == 0
    assert (darker.scores["psnr_to_source"] or 0) < 15
    assert (darker.scores["motion_error_to_source"] or 0) < 1
    assert (absent.status, empty.status) == ("missing", "missing")
    assert "absent.mp4" in absent.reason
    assert read_run(tmp_path / "run")[0].editor == "peer"


def test_the_targets_of_a_manifest_can_be_what_is_scored(engine_folder, tmp_path):
    run_of_manifest(engine_folder / "manifest.csv", "tgt_video", tmp_path / "run", "engine")
    records = score_run(tmp_path / "run", ONE_WORKER)
    assert all(record.scores["psnr_outside"] == LARGEST_PSNR for record in records if record.scores["psnr_outside"])
    assert all("success" not in record.scores for record in records)
    before = (tmp_path / "run" / PREDICTIONS).read_bytes()
    run_of_manifest(engine_folder / "manifest.csv", "tgt_video", tmp_path / "run", "engine")
    assert (tmp_path / "run" / PREDICTIONS).read_bytes() == before


def test_a_semantic_encoder_adds_what_it_sees(engine_items, tmp_path, one_thread):  # noqa: ARG001 (a fixture)
    still, noise = engine_items[:2]
    predict(INFO, [still, noise], ControlEditor(control="noise", items=engine_items), tmp_path)
    picture = clip(tmp_path / "picture.mp4", 1, 64, 96)
    write_lossless(tmp_path / predictions_of(tmp_path)[still.id].file, np.repeat(picture, 5, axis=0), Fraction(16))
    scores = [record.scores for record in score_run(tmp_path, ExactConfig(workers=1, semantic_encoder="nano"))]
    assert scores[0]["frame_consistency"] == pytest.approx(1, abs=1e-3)
    assert (scores[1]["frame_consistency"] or 1) < 0.999
    assert all(-1 <= (one["text_agreement"] or -2) <= 1 for one in scores)
    assert {"frame_consistency", "text_agreement"} <= METRICS.keys()
    with pytest.raises(UserError, match="no SigLIP model"):
        score_run(tmp_path, ExactConfig(semantic_encoder="nowhere"))


# The command


def sama(*arguments):
    return CliRunner().invoke(app, normalise_arguments([str(part) for part in arguments]))


def test_the_command_scores_runs_and_manifests(controls, engine_folder, tmp_path):
    result = sama("eval", "exact", controls / "perfect", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "8 of 8 scored, 0 missing, 0 failed" in result.output
    assert "success: 1.000 [1.000, 1.000]" in result.output
    manifest = engine_folder / "manifest.csv"
    result = sama("eval", "exact", manifest, "--edited", "tgt_video", "--out", tmp_path / "run", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "psnr_outside: 100.000" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--success-factor", "0"), "above 0"),
        (("--workers", "0"), "at least 1"),
        ((), "holds no run"),
    ],
)
def test_bad_requests_say_how_to_mend_them(arguments, message, tmp_path):
    result = sama("eval", "exact", tmp_path, *arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
