"""Where a source is edited, how strongly, from when to when: pixels outside equal the source's."""

from fractions import Fraction

import numpy as np
import PIL.Image
import pytest

from sama_video.editing import EditSettings, differences, edit_seeds, edit_video, read_sidecar
from sama_video.system.errors import UserError
from sama_video.video import VideoReader, write_lossless
from tests import tiny
from tests.clips import picture, write_clip
from tests.commands import sama

LOSSLESS = {"num_inference_steps": 1, "crf": 0}


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)


@pytest.fixture
def source(tmp_path):
    write_lossless(tmp_path / "a.mp4", np.stack([picture(index) for index in range(13)]), Fraction(25))
    return tmp_path / "a.mp4"


def frames_of(path):
    return np.stack([frame.pixels for frame in VideoReader(path).frames()]).astype(int)


def edited(pipe, source, name="b.mp4", **settings):
    output = source.parent / name
    edit_video(pipe, source, "make it red", output, EditSettings(**LOSSLESS | settings))
    return frames_of(output)


def test_outside_of_a_box_the_source_stays_and_inside_the_edit_fades_in(pipe, source):
    before, everywhere = frames_of(source), edited(pipe, source)
    boxed = edited(pipe, source, box="32,16,64,48", feather=8)
    inside = np.zeros((96, 128), bool)
    inside[16:64, 32:96] = True
    assert np.array_equal(boxed[:, ~inside], before[:, ~inside])
    assert np.array_equal(boxed[:, 24:56, 40:88], everywhere[:, 24:56, 40:88])
    change, whole = np.abs(boxed - before).sum(axis=(0, 3)), np.abs(everywhere - before).sum(axis=(0, 3))
    shares = [change[40, column] / whole[40, column] for column in range(32, 40)]
    assert shares == pytest.approx([(n + 0.5) / 8 for n in range(8)], abs=0.05)
    percent = edited(pipe, source, box="25%,16.6667%,50%,50%", feather=8)
    assert np.array_equal(percent, boxed)
    corner = [edited(pipe, source, box=box) for box in ("0,0,50%,100%", "0%,0%,50%,100%", "0,0,64,96")]
    assert np.array_equal(corner[0], corner[1])
    assert np.array_equal(corner[0], corner[2])


def test_a_mask_s_grey_counts_in_part_and_a_hard_edge_is_hard(pipe, source):
    mask = np.zeros((48, 64), np.uint8)  # of half the size
    mask[10:30, 10:30], mask[10:30, 40:60] = 255, 128
    PIL.Image.fromarray(mask).save(source.parent / "mask.png")
    before, everywhere = frames_of(source), edited(pipe, source)
    result = edited(pipe, source, mask=str(source.parent / "mask.png"), feather=0)
    assert np.array_equal(result[:, :16], before[:, :16])
    assert np.array_equal(result[:, 24:56, 24:56], everywhere[:, 24:56, 24:56])
    half = before[:, 24:56, 84:116] + (everywhere - before)[:, 24:56, 84:116] * 128 / 255
    assert np.abs(result[:, 24:56, 84:116] - half).max() <= 1


def test_a_clip_as_a_mask_moves_and_counts_by_its_times(pipe, source):
    masks = np.zeros((7, 96, 128, 3), np.uint8)  # at half the rate, so that each lasts two frames
    for index in range(7):
        masks[index, :, 16 * index : 16 * index + 16] = 255
    write_lossless(source.parent / "mask.mp4", masks, Fraction(25, 2))
    options = {"mask": str(source.parent / "mask.mp4"), "feather": 0}
    before, result = frames_of(source), edited(pipe, source, **options)
    for index in range(13):
        changed = np.abs(result[index] - before[index]).sum(axis=(0, 2)).nonzero()[0]
        assert {column // 16 for column in changed} == {index // 2}
    later = edited(pipe, source, start=0.2, **options)  # in the middle of a mask's frame
    for index in range(8):
        changed = np.abs(later[index] - before[5 + index]).sum(axis=(0, 2)).nonzero()[0]
        assert {column // 16 for column in changed} == {(5 + index) // 2}


def test_a_region_needs_something_in_it(pipe, source):
    PIL.Image.new("L", (8, 8)).save(source.parent / "black.png")
    for settings, message in [
        ({"mask": str(source.parent / "black.png")}, "selects nothing: white is edited"),
        ({"mask": "none.png"}, "no such video: none.png"),
        ({"box": "200,0,10,10"}, "outside of the picture, which has 128x96"),
        ({"box": "1,2,3"}, "`box` must be X,Y,WIDTH,HEIGHT"),
        ({"box": "1,2,3%,4"}, "`box` must be X,Y,WIDTH,HEIGHT"),
        ({"feather": 3}, "give `mask` or `box`, too"),
        ({"strength": 9.0}, "`strength` must be at most 4"),
        ({"strength": -1.0}, "`strength` must be at least 0"),
        ({"start": 1.0, "end": 0.5}, "`end` must come after `start`"),
        ({"end": 0.5, "num_frames": 3}, "both say where to stop"),
        ({"codec": "av2"}, "`codec` must be one of h264, hevc"),
    ]:
        with pytest.raises(UserError, match=message):
            edited(pipe, source, **settings)


def test_strength_goes_from_the_source_through_the_edit_and_beyond(pipe, source):
    before, whole = frames_of(source), edited(pipe, source, output_size="model")
    assert np.abs(edited(pipe, source, strength=0.0) - before).max() <= 1
    half = edited(pipe, source, strength=0.5, output_size="model")
    twice = edited(pipe, source, strength=2.0, output_size="model")
    start = edited(pipe, source, strength=0.0, output_size="model")
    assert np.abs(half - (start + whole) / 2).max() <= 1.5
    assert np.abs(twice - np.clip(2 * whole - start, 0, 255)).max() <= 3


def test_words_of_degree_count_where_the_model_has_not_learned_them(source):
    taught = tiny.pipeline(
        native_num_frames=9,
        default_num_inference_steps=1,
        trained_for={"families": ["global_style"], "looks": ["warm"]},
    )
    strengths = {}
    for words in ("Make the colors warmer", "Make the colors a little warmer", "Make the colors much warmer"):
        record = edit_video(taught, source, words, source.parent / "b.mp4")
        strengths[words] = record["strength"]
        assert ("is taken for a strength of" in " ".join(record["notes"])) == (record["strength"] != 1)
    assert list(strengths.values()) == [1.0, 0.5, 1.6]
    record = edit_video(
        taught, source, "Make the colors much warmer", source.parent / "b.mp4", EditSettings(strength=1.0)
    )
    assert record["strength"] == 1
    assert record["notes"] == []


def test_end_stops_before_the_frame_that_is_shown_then(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 48, sound=True)
    record = edit_video(pipe, source, "x", tmp_path / "b.mp4", EditSettings(start=0.5, end=1.0))
    assert record["source"]["num_frames"] == 12
    record = edit_video(pipe, source, "x", tmp_path / "b.mp4", EditSettings(start=0.5, end=9.0))
    assert record["source"]["num_frames"] == 36
    assert record["notes"] == []


def test_a_mask_counts_by_what_it_holds(pipe, source):
    mask = source.parent / "mask.png"
    PIL.Image.new("L", (8, 8), 255).save(mask)
    settings = EditSettings(**LOSSLESS, mask=str(mask))
    edit_video(pipe, source, "make it red", source.parent / "b.mp4", settings)
    record, resolved = read_sidecar(source.parent / "b.mp4"), settings.resolved(pipe.model_info)
    changed = {"source", "mask"} & set(differences(record, source, "make it red", resolved, record["model"]))
    assert not changed
    PIL.Image.new("L", (8, 9), 255).save(mask)
    assert "mask" in differences(record, source, "make it red", resolved, record["model"])


def test_several_seeds_and_their_sheet(pipe, source):
    results = edit_seeds(
        pipe, source, "make it red", source.parent / "b.mp4", EditSettings(**LOSSLESS, seed=5), count=3
    )
    assert [path.name for path in results] == ["b_seed5.mp4", "b_seed6.mp4", "b_seed7.mp4"]
    clips = [frames_of(path) for path in results]
    assert not np.array_equal(clips[0], clips[1])
    sheet = np.array(PIL.Image.open(source.parent / "b_seeds.png"))
    assert sheet.shape == (4 * 180, 6 * 240, 3)
    first = np.array(PIL.Image.fromarray(clips[2][0].astype(np.uint8)).resize((240, 180), PIL.Image.Resampling.BICUBIC))
    assert np.abs(sheet[3 * 180 :, :240].astype(int) - first).mean() < 3


def test_the_command_takes_all_of_it(source):
    model = source.parent / "model"
    tiny.pipeline(native_num_frames=9, default_num_inference_steps=1).save_pretrained(model)
    output = source.parent / "c.webm"
    options = ["--model", str(model), "--start", "0:00.2", "--end", "0:00.4", "--box", "9,0,50%,50%"]
    refused = sama("edit", source, "make it red", "-o", output, *options)
    assert refused.returncode == 2
    assert "--box must be X,Y,WIDTH,HEIGHT" in refused.stderr
    options[-1] = "0,0,64,48"
    done = sama("edit", source, "make it red", "-o", output, *options, "--strength", "0.7", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "c_seed0.webm (5 frames" in done.stdout
    assert f"all of them: {source.parent / 'c_seeds.png'}" in done.stdout
    record = read_sidecar(source.parent / "c_seed1.webm")
    assert record["strength"] == 0.7
    assert record["settings"]["box"] == "0,0,64,48"
    assert record["command"].startswith("sama ")
    refused = sama("edit", source, "x", "--start", "1:75")
    assert refused.returncode == 2
    assert "is no time; give seconds or mm:ss" in refused.stderr
