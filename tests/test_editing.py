import itertools
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

import sama_video
from sama_video.editing import EditSettings, edit_frames, edit_video, plan_edit, plan_windows, read_sidecar, sidecar_of
from sama_video.editing.plan import _edited_area
from sama_video.editing.source_stream import _resized_area, to_tensor
from sama_video.editing.windows import overlap_of
from sama_video.models.shapes import RELEASE_SIZES, release_size
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.selection import ModelInfo
from sama_video.system.errors import UserError
from sama_video.video import Frame, VideoInfo, VideoReader, write_lossless
from tests import tiny
from tests.clips import write_clip

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
QUICK = EditSettings(num_inference_steps=1)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)


def edit(pipe, source, output, settings=QUICK, **kwargs):
    return edit_video(pipe, source, "make it red", output, settings, **kwargs)


def has_sound(path):
    with av.open(str(path)) as container:
        return bool(container.streams.audio)


SOURCES = {
    "sound.mp4": {"num_frames": 10, "sound": True},
    "phone.mp4": {"num_frames": 6, "rotation": 90, "sound": True},
    "cinema.mp4": {"num_frames": 7, "fps": Fraction(24000, 1001)},
    "variable.mp4": {"times": [Fraction(t, 1000) for t in (0, 40, 50, 200, 210, 500)], "fps": Fraction(30)},
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_result_keeps_frames_fps_ratio_and_sound(name, pipe, tmp_path):
    source = write_clip(tmp_path / name, **SOURCES[name])
    output = tmp_path / "out.mp4"
    edit(pipe, source, output)
    before, after = VideoReader(source), VideoReader(output)
    times = [[frame.time for frame in reader.frames()] for reader in (before, after)]
    assert len(times[0]) == len(times[1])
    assert all(abs(a - b) < Fraction(1, 20_000) for a, b in zip(*times, strict=True))
    assert after.info.fps == before.info.fps
    assert (after.info.height, after.info.width) == (before.info.height, before.info.width)
    assert has_sound(output) == has_sound(source)


def test_an_image_stays_an_image(pipe, tmp_path):
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 61, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    edit(pipe, tmp_path / "a.png", tmp_path / "b.png", compare=tmp_path / "c.png", contact_sheet=tmp_path / "d.png")
    assert PIL.Image.open(tmp_path / "b.png").size == (61, 90)
    assert PIL.Image.open(tmp_path / "c.png").size == (122, 90)
    with pytest.raises(UserError, match=r"cannot write \.mp4"):
        edit(pipe, tmp_path / "a.png", tmp_path / "b.mp4")


def test_animated_pictures_become_films_and_notes_are_kept(pipe, tmp_path):
    rgba = np.zeros((64, 96, 4), np.uint8)
    pictures = []
    for index in range(5):
        rgba[:, 10 * index : 10 * index + 40] = (200, 30, 30, 255)
        pictures.append(PIL.Image.fromarray(rgba.copy()))
    durations = [40, 80, 40, 120, 40]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=durations)
    record = edit(pipe, tmp_path / "a.png", tmp_path / "b.mp4")
    assert record["notes"] == ["transparent parts shown on white"]
    times = [float(frame.time) for frame in VideoReader(tmp_path / "b.mp4").frames()]
    assert times == pytest.approx([0, 0.04, 0.12, 0.16, 0.28], abs=1e-3)


def test_sources_beyond_the_limit_are_refused(pipe, tmp_path):
    settings = EditSettings(num_inference_steps=1, max_source_pixels=96 * 128 - 1)
    with pytest.raises(UserError, match="`max_source_pixels` 12288"):
        edit(pipe, write_clip(tmp_path / "a.mp4", 2), tmp_path / "b.mp4", settings)


def test_same_seed_same_file(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4")
    for name in ("x.mp4", "y.mp4"):
        edit(pipe, source, tmp_path / name)
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "y.mp4").read_bytes()
    edit(pipe, source, tmp_path / "z.mp4", EditSettings(num_inference_steps=1, seed=1))
    assert (tmp_path / "z.mp4").read_bytes() != (tmp_path / "x.mp4").read_bytes()


def test_start_and_num_frames_cut_a_piece(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 48, sound=True)
    edit(pipe, source, tmp_path / "b.mp4", EditSettings(num_inference_steps=1, start=1.0, num_frames=6))
    frames = list(VideoReader(tmp_path / "b.mp4").frames())
    assert [frame.time for frame in frames] == [Fraction(i, 24) for i in range(6)]
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) < 0.4


def test_a_damaged_file_is_edited_as_far_as_it_decodes(pipe, tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", 48).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    faststart = tmp_path / "whole.mp4"
    edit(pipe, write_clip(tmp_path / "a.mp4", 48), faststart)
    data = faststart.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    sidecar = edit(pipe, tmp_path / "cut.mp4", tmp_path / "b.mp4")
    decoded = sidecar["source"]["num_frames"]
    assert 0 < decoded < 48
    assert f"{decoded} of 48 frames" in sidecar["notes"][0]
    sidecar = edit(pipe, tmp_path / "cut.mkv", tmp_path / "c.mp4")
    assert 0 < sidecar["source"]["num_frames"] < 48


def test_the_sidecar_holds_what_made_the_result(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4")
    (tmp_path / "b.json").write_text("the user's own")
    edit(pipe, source, tmp_path / "b.mp4")
    assert (tmp_path / "b.json").read_text() == "the user's own"
    sidecar = json.loads((tmp_path / "b.mp4.json").read_text())
    assert sidecar["prompt"] == "make it red"
    assert sidecar["settings"]["seed"] == 0
    assert sidecar["settings"]["guidance_scale"] == 5.0
    assert sidecar["versions"]["torch"].startswith("2.")
    assert sidecar["model_size"] == {"height": 32, "width": 32} or sidecar["model_size"]["height"] % 16 == 0


def test_long_clips_go_through_windows(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 30)
    sidecar = edit(pipe, source, tmp_path / "b.mp4")
    assert len(sidecar["windows"]) == 4
    assert len(list(VideoReader(tmp_path / "b.mp4").frames())) == 30


def test_frames_are_read_as_they_are_needed(pipe):
    """However long a clip is, no more than two windows of it are held."""
    num_frames, read, ahead = 60, [], []
    windows = plan_windows(num_frames, [30], 9)

    def source():
        for index in range(num_frames):
            read.append(index)
            yield np.full((32, 32, 3), index, np.uint8)

    for index, (frame, edit) in enumerate(edit_frames(pipe, source(), "make it red", QUICK, windows)):
        assert round(float(frame.mean()) * 255) == index
        assert edit.shape == (3, 32, 32)
        ahead.append(len(read) - index)
    assert len(ahead) == num_frames
    assert max(ahead) <= 9


def test_a_shot_is_edited_as_if_it_were_alone(pipe):
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8) for size in (11, 14))

    def edited(frames, cuts):
        windows = plan_windows(len(frames), cuts, 9)
        return torch.stack([edit for _, edit in edit_frames(pipe, frames, "make it red", QUICK, windows)])

    together = edited(np.concatenate([first, second]), [11])
    assert torch.equal(together, torch.cat([edited(first, []), edited(second, [])]))


def test_cuts_are_found_and_written_down(pipe, tmp_path):
    pixels = np.concatenate([np.full((12, 48, 64, 3), level, np.uint8) for level in (30, 220)])
    write_lossless(tmp_path / "a.mp4", pixels, Fraction(8))
    record = edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert record["cuts"] == [12]
    assert 12 in record["windows"]
    assert len(list(VideoReader(tmp_path / "b.mp4").frames())) == 24


def test_several_steps_go_on_from_what_was_edited(pipe, monkeypatch):
    known = []
    call = type(pipe).__call__

    def noted(*arguments, **options):
        known.append(options["known_frames"])
        return call(*arguments, **options)

    monkeypatch.setattr(type(pipe), "__call__", noted)
    frames = np.random.default_rng(0).integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    windows = plan_windows(14, [], 9)
    [*edit_frames(pipe, frames, "make it red", EditSettings(num_inference_steps=2), windows)]
    assert windows[1].overlap == 4  # of which the autoencoder can take one
    assert [None if one is None else len(one) for one in known] == [None, 1]
    known.clear()
    [*edit_frames(pipe, frames, "make it red", EditSettings(num_inference_steps=1), windows)]
    assert known == [None, None]


def test_fast_is_few_steps_without_guidance_unless_others_are_given(pipe, monkeypatch):
    released = replace(pipe.model_info, default_num_inference_steps=50, default_guidance_scale=5.0)
    fast = EditSettings(fast=True).resolved(released)
    assert (fast.num_inference_steps, fast.guidance_scale) == (4, 1.0)
    assert EditSettings(fast=True).resolved(replace(released, default_num_inference_steps=1)).num_inference_steps == 1
    assert EditSettings(fast=True, num_inference_steps=8, guidance_scale=2.0).resolved(released).guidance_scale == 2.0
    assert EditSettings().resolved(released).num_inference_steps == 50
    called = []
    call = type(pipe).__call__
    monkeypatch.setattr(
        type(pipe), "__call__", lambda *given, **options: called.append(options) or call(*given, **options)
    )
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    [*edit_frames(pipe, frames, "make it red", EditSettings(fast=True), plan_windows(5, [], 9))]
    assert (called[0]["num_inference_steps"], called[0]["guidance_scale"]) == (
        1,
        1.0,
    )  # the nano takes no more by itself


@pytest.mark.parametrize(("frames", "window"), [(9, 9), (10, 9), (33, 33), (100, 33), (217, 33)])
def test_windows_cover_everything_and_overlap(frames, window):
    windows = plan_windows(frames, [], window)
    assert (windows[0].start, windows[0].overlap, windows[-1].stop) == (0, 0, frames)
    for one, other in itertools.pairwise(windows):
        assert one.start < other.start
        assert one.stop - other.start == other.overlap >= overlap_of(window)
    assert all(one.stop - one.start == window for one in windows)


@pytest.mark.parametrize("cuts", [[], [1], [9], [9, 10, 40], [16, 17, 33]])
def test_no_window_holds_frames_of_two_shots(cuts):
    windows = plan_windows(50, cuts, 17)
    assert sorted({frame for one in windows for frame in range(one.start, one.stop)}) == [*range(50)]
    assert {one.start for one in windows if one.overlap == 0} == {0, *cuts}
    assert not any(one.start < at < one.stop for one in windows for at in cuts)


def plan(info=(480, 640), **settings):
    info = VideoInfo(*info, Fraction(25), 30, has_audio=False, is_image=False)
    facts = ModelInfo(
        pixel_multiple=16,
        native_area=128 * 128,
        native_num_frames=33,
        default_num_inference_steps=6,
        default_guidance_scale=1.0,
        default_flow_shift=3.0,
    )
    return plan_edit(info, EditSettings(**settings), facts)


def test_plans():
    assert plan().model_size == (112, 144)
    assert plan().output_size == (480, 640)
    assert plan().detail == "source"
    assert plan(info=(96, 112)).detail == "none"
    assert plan(output_size="model").output_size == (112, 144)
    assert plan(output_size="model").detail == "none"
    crop = plan(height=128, width=128, fit="crop")
    assert crop.area == (0, 80, 480, 480)
    assert crop.output_size == (480, 480)
    pad = plan(height=128, width=128, fit="pad")
    assert pad.area == (-80, 0, 640, 640)
    assert pad.output_size == (480, 640)
    assert plan(height=128, width=128, fit="pad", output_size="model").output_size == (96, 128)
    assert plan(max_pixels=256 * 256).model_size == (224, 304)


@pytest.mark.parametrize("case", range(3))
def test_the_release_sees_the_same_frames(case):
    """Golden pictures of the release's own cropping and resizing."""
    tensors = load_file(GOLDEN / "M1_misc.safetensors")
    before, after = (tensors[f"crop{case}.{name}"].numpy() for name in ("in", "out"))
    info = VideoInfo(*before.shape[:2], Fraction(25), 1, has_audio=False, is_image=False)
    area = _edited_area(info, after.shape[:2], "release")
    found = _resized_area(
        Frame(before, Fraction(0), Fraction(1)), replace(plan(), area=area, model_size=after.shape[:2])
    )
    assert np.abs(found.astype(int) - after).mean() < 0.01


def test_the_release_has_sizes_of_its_own():
    answers = json.loads((GOLDEN / "index.json").read_text())["cases"]["M1_misc"]
    assert [list(size[::-1]) for size in RELEASE_SIZES] == answers["resolutions_wh"]
    for source, size in answers["closest"].items():
        width, height = map(int, source.split("x"))
        assert release_size(height, width) == tuple(size[::-1])
    release = plan(info=(1080, 1920), fit="release")
    assert (release.model_size, release.output_size) == ((480, 832), (1080, 1872))


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
@pytest.mark.parametrize("detail", ["source", "none"])
def test_every_fit_gives_the_planned_size(fit, detail, pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 2)
    settings = EditSettings(num_inference_steps=1, height=32, width=32, fit=fit, detail=detail)
    edit(pipe, source, tmp_path / "b.mp4", settings)
    info = VideoReader(tmp_path / "b.mp4").info
    assert (info.height, info.width) == ((96, 96) if fit == "crop" else (96, 128))


def test_padding_comes_off_where_it_was_put(pipe, tmp_path, monkeypatch):
    source = write_clip(tmp_path / "a.mp4", 1)
    monkeypatch.setattr(
        "sama_video.editing.editor.edit_frames",
        lambda _pipe, frames, *_: ((to_tensor(frame), to_tensor(frame)) for frame in frames),
    )
    settings = EditSettings(height=96, width=96, fit="pad", detail="source")
    edit(pipe, source, tmp_path / "b.mp4", settings)
    before, after = (next(VideoReader(tmp_path / name).frames()).pixels.astype(int) for name in ("a.mp4", "b.mp4"))
    assert np.abs(before - after).mean() < 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be at least 1"),
        ({"start": -1.0}, "`start` must be at least 0"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be at least 1"),
        ({"crf": 99}, "`crf` must be in 0..51"),
        ({"max_source_pixels": 0}, "`max_source_pixels` must be at least 1"),
        ({"height": 64}, "both `height` and `width`"),
        ({"start": float("nan")}, "`start` must be at least 0"),
        ({"seed": 10**23}, r"`seed` must be below 2\*\*63"),
        (
            {"guidance_start": 0.5, "guidance_end": 0.2},
            "`guidance_end` must be between `guidance_start`, here 0.5, and 1",
        ),
        ({"source_refresh": 0}, "`source_refresh` must be at least 1"),
        ({"flow_shift": 0.0}, "`flow_shift` must be above 0"),
        ({"flow_shift": -3.0}, "`flow_shift` must be above 0"),
        ({"guidance_scale": float("nan")}, "`guidance_scale` must be a finite number"),
        ({"fit": "stretch"}, "`fit` must be one of"),
        ({"fit": "release", "max_pixels": 4096}, "`fit` release has sizes of its own"),
        ({"detail": "much"}, "`detail` must be one of"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        EditSettings(**settings)


def test_sizes_the_model_cannot_take(pipe, tmp_path):
    with pytest.raises(UserError, match="use `height` 96 `width` 112"):
        edit(pipe, write_clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", EditSettings(height=100, width=110))
    with pytest.raises(UserError, match="instruction is empty"):
        edit_video(pipe, tmp_path / "a.mp4", " ", tmp_path / "b.mp4", QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_a_failure_while_writing_leaves_nothing(pipe, tmp_path, monkeypatch):
    source = write_clip(tmp_path / "a.mp4")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sama_video.video.VideoWriter.write", full_disk)
    with pytest.raises(UserError, match="the disk is full"):
        edit(pipe, source, tmp_path / "b.mp4", compare=tmp_path / "c.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_nothing_that_is_not_a_result_is_replaced(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 2)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder.mp4" / "kept").touch()
    foreign = tmp_path / "b.mp4.json"
    foreign.write_text("[1]")
    for output, message in (("folder.mp4", "is a folder"), ("b.mp4", "not the record of an edit"), ("a.mp4", "source")):
        with pytest.raises(UserError, match=message):
            edit(pipe, source, tmp_path / output)
    with pytest.raises(UserError, match="is a folder"):
        edit(pipe, source, tmp_path / "c.mp4", compare=tmp_path / "folder.mp4")
    assert (tmp_path / "folder.mp4" / "kept").exists()
    assert foreign.read_text() == "[1]"


def test_no_output_is_the_source_under_any_name(pipe, tmp_path):
    source = write_clip(tmp_path / "a_compare.mp4", 2)
    before = source.read_bytes()
    os.link(source, tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(source)
    for output, compare in (("hard.mp4", None), ("soft.mp4", None), ("a.mp4", source)):
        with pytest.raises(UserError, match="is the source itself"):
            edit(pipe, source, tmp_path / output, compare=compare)
    with pytest.raises(UserError, match="5 bytes too long"):
        edit(pipe, source, tmp_path / ("n" * 251 + ".mp4"))
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_compare.mp4", "hard.mp4", "soft.mp4"]


def test_the_record_names_weights_loras_and_how_they_ran(tmp_path):
    source = write_clip(tmp_path / "odd.mkv", 2, codec="ffv1", pix_fmt="yuv444p", height=97, width=131)
    pipe = load_pipeline("nano", vae_tiling=True)
    record = edit_video(pipe, str(source), "make it red", str(tmp_path / "b.mp4"), QUICK)
    model = record["model"]
    assert model["weights"].startswith("sha256:")
    assert (model["device"], model["dtype"], model["offload"], model["vae_tiling"]) == ("cpu", "float32", "none", True)
    assert model["lora"] == []
    info = VideoReader(tmp_path / "b.mp4").info
    assert record["output_size"] == {"height": info.height, "width": info.width} == {"height": 98, "width": 132}
    assert read_sidecar(tmp_path / "b.mp4") == record
    assert sidecar_of(tmp_path / "b.mp4") != sidecar_of(tmp_path / "b.png")


def test_the_package_gives_its_chief_names():
    assert sama_video.edit_video is edit_video
    assert sama_video.load_pipeline is load_pipeline
    assert sama_video.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sama_video.nothing
