import dataclasses
import json
import os
import shutil
import sys
import time

import av
import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest

from sama_video.editing import EditSettings
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.editors import (
    CONTROLS,
    CommandEditor,
    ControlEditor,
    EditFailedError,
    FolderEditor,
    PipelineEditor,
)
from sama_video.evaluation.layouts import read_items
from sama_video.media.metrics import psnr
from sama_video.system.errors import UserError
from sama_video.video import VideoReader
from tests import tiny
from tests.clips import write_photos
from tests.evaluation.copies import write_copy


def frames(path):
    return np.stack([frame.pixels for frame in VideoReader(path).frames()])


@pytest.fixture
def item(engine_items):
    return engine_items[0]


# Commands


def python(code: str) -> str:
    return f"{sys.executable} -c '{code}'"


def test_places_are_filled_as_single_arguments_without_a_shell(item, tmp_path):
    listed = tmp_path / "arguments.json"
    code = 'import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], "w"))'
    editor = CommandEditor(
        template=f"{python(code)} {listed} --in={{source}} {{instruction}} 'two words' {{output}} {{reference}}"
    )
    text = 'Say "it\'s" $(touch x); {output} && more'
    item = dataclasses.replace(item, instruction=text, reference=item.source)
    editor(item, tmp_path / "o.mp4")
    expected = [f"--in={item.source}", text, "two words", str(tmp_path / "o.mp4"), str(item.source)]
    assert json.loads(listed.read_text()) == expected


def test_a_failing_program_fails_the_item_with_its_last_words(item, tmp_path):
    code = 'import sys; print("loading", file=sys.stderr); print("no memory\\n", file=sys.stderr); sys.exit(3)'
    with pytest.raises(EditFailedError, match="exit code 3: no memory"):
        CommandEditor(template=f"{python(code)} {{source}} {{output}}")(item, tmp_path / "o.mp4")


def test_a_program_that_takes_too_long_ends_with_all_that_it_started(item, tmp_path):
    code = (
        "import os, pathlib, subprocess, sys, time; "
        'child = subprocess.Popen(["sleep", "900"]); pathlib.Path(sys.argv[2] + ".pid").write_text(str(child.pid)); '
        "time.sleep(900)"
    )
    output = tmp_path / "o.mp4"
    with pytest.raises(EditFailedError, match="longer than 3 s"):
        CommandEditor(template=f"{python(code)} {{source}} {{output}}", timeout=3.0)(item, output)
    pid = int((tmp_path / "o.mp4.pid").read_text())
    deadline = time.monotonic() + 300
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """A process that ended but whose parent has not noticed does not run."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("cp {source}", "needs {output}"),
        ("make {output}", "needs {source}"),
        ("cp '{source} {output}", "no command line"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template, message):
    with pytest.raises(UserError, match=message):
        CommandEditor(template=template)


def test_a_program_that_is_not_there_stops_the_run(item, tmp_path):
    with pytest.raises(UserError, match="cannot start /nowhere/edit"):
        CommandEditor(template="/nowhere/edit {source} {output}")(item, tmp_path / "o.mp4")


def test_an_instruction_longer_than_a_command_line_fails_its_item(item, tmp_path):
    long = dataclasses.replace(item, instruction="x" * 2**22)
    with pytest.raises(EditFailedError, match="longer than a command line"):
        CommandEditor(template="cp {source} {output} {instruction}")(long, tmp_path / "o.mp4")


def test_an_item_without_the_reference_that_a_program_takes_fails(item, tmp_path):
    with pytest.raises(EditFailedError, match="no reference"):
        CommandEditor(template="cp {source} {reference} {output}")(item, tmp_path / "o.mp4")


def test_ffmpeg_is_an_editor(item, tmp_path):
    template = f"{imageio_ffmpeg.get_ffmpeg_exe()} -loglevel error -i {{source}} -vf negate -pix_fmt yuv420p {{output}}"
    CommandEditor(template=template)(item, tmp_path / "o.mp4")
    assert (psnr(frames(tmp_path / "o.mp4"), 255 - frames(item.source)) or 0) > 25


# Folders


def test_finished_results_are_found_with_and_without_the_task_s_folder(engine_items, tmp_path):
    first, second, third = engine_items[:3]
    (tmp_path / "results" / first.task).mkdir(parents=True)
    (tmp_path / "results" / first.task / first.file_name).write_bytes(b"first")
    (tmp_path / "results" / second.file_name).write_bytes(b"second")
    editor = FolderEditor(folder=tmp_path / "results")
    for item, content in ((first, b"first"), (second, b"second")):
        editor(item, tmp_path / "o.mp4")
        assert (tmp_path / "o.mp4").read_bytes() == content
    with pytest.raises(EditFailedError, match=third.file_name):
        editor(third, tmp_path / "o.mp4")
    with pytest.raises(UserError, match="no such folder"):
        FolderEditor(folder=tmp_path / "nothing")


def write_frames(folder, clip, suffix=".png"):
    folder.mkdir(parents=True)
    for index, pixels in enumerate(clip):
        PIL.Image.fromarray(pixels).save(folder / f"{index + 1:05d}{suffix}")


def test_editverses_results_are_found_where_its_authors_keep_them(tmp_path):
    items = read_items(find_benchmark("editverse_bench"), write_copy("editverse_bench", tmp_path / "copy"))
    (tmp_path / "results" / "0").mkdir(parents=True)
    shutil.copy(items[0].source, tmp_path / "results" / "0" / "generate.mp4")
    editor = FolderEditor(folder=tmp_path / "results")
    editor(items[0], tmp_path / "o.mp4")
    assert (tmp_path / "o.mp4").read_bytes() == items[0].source.read_bytes()
    with pytest.raises(EditFailedError, match=r"no 1.mp4 in"):
        editor(items[1], tmp_path / "o.mp4")


@pytest.mark.parametrize("place", ["0001_bus/edit1", "0001_bus/edit1/result_all_frames", "edit1/0001_bus"])
def test_fives_results_are_folders_of_frames(tmp_path, place):
    items = read_items(find_benchmark("five_bench"), write_copy("five_bench", tmp_path / "copy"))
    clip = np.random.default_rng(0).integers(0, 256, (6, 33, 47, 3), np.uint8)
    write_frames(tmp_path / "results" / place, clip)
    FolderEditor(folder=tmp_path / "results")(items[0], tmp_path / "o.mp4")
    assert np.array_equal(frames(tmp_path / "o.mp4"), clip)
    assert VideoReader(tmp_path / "o.mp4").info.fps == VideoReader(items[0].source).info.fps
    with pytest.raises(EditFailedError, match=r"no 0001_bus_edit2\.mp4"):
        FolderEditor(folder=tmp_path / "results")(items[1], tmp_path / "p.mp4")


def test_fives_editors_videos_are_found_too(tmp_path):
    items = read_items(find_benchmark("five_bench"), write_copy("five_bench", tmp_path / "copy"))
    (tmp_path / "results" / "0001_bus").mkdir(parents=True)
    shutil.copy(items[2].source, tmp_path / "results" / "0001_bus" / "3_a [3] bus.mp4")
    FolderEditor(folder=tmp_path / "results")(items[2], tmp_path / "o.mp4")
    assert (tmp_path / "o.mp4").read_bytes() == items[2].source.read_bytes()


def test_frames_of_several_sizes_are_no_video(tmp_path):
    items = read_items(find_benchmark("five_bench"), write_copy("five_bench", tmp_path / "copy"))
    write_frames(tmp_path / "results" / "0001_bus" / "edit1", [np.zeros((8, 8 + n, 3), np.uint8) for n in range(2)])
    with pytest.raises(EditFailedError, match="have 2 sizes"):
        FolderEditor(folder=tmp_path / "results")(items[0], tmp_path / "o.mp4")


def test_a_benchmarks_list_does_not_lead_out_of_the_folder(item, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    paths = ("../secret.mp4", "a/../../secret.mp4", str(tmp_path / "secret.mp4"), "x" * 300, "\x00")
    with pytest.raises(EditFailedError, match="no test"):
        FolderEditor(folder=tmp_path / "results")(dataclasses.replace(item, results=paths), tmp_path / "o.mp4")


# Controls


def control(name, items, output, place=0):
    ControlEditor(control=name, items=items)(items[place], output)
    return output


def test_identity_and_perfect_are_copies(engine_items, tmp_path):
    first = engine_items[0]
    assert control("identity", engine_items, tmp_path / "i.mp4").read_bytes() == first.source.read_bytes()
    assert control("perfect", engine_items, tmp_path / "p.mp4").read_bytes() == first.target.read_bytes()


def test_half_lies_half_way(engine_items, tmp_path):
    for place, item in enumerate(engine_items):
        half = frames(control("half", engine_items, tmp_path / "half.mp4", place))
        source, target = frames(item.source), frames(item.target)
        assert (psnr(half, target) or 0) > (psnr(source, target) or 0)
        assert (psnr(half, source) or 0) > (psnr(target, source) or 0)


def test_without_a_target_half_goes_towards_a_strong_look(item, tmp_path):
    alone = [dataclasses.replace(item, target=None)]
    half = frames(control("half", alone, tmp_path / "half.mp4"))
    assert 8 < (psnr(half, frames(item.source)) or 0) < 25
    with pytest.raises(EditFailedError, match="no target"):
        control("perfect", alone, tmp_path / "p.mp4")


def test_noise_is_the_item_s_own_and_always_the_same(engine_items, tmp_path):
    first, again = (control("noise", engine_items, tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    other = control("noise", engine_items, tmp_path / "c.mp4", 1).read_bytes()
    assert first == again != other
    assert frames(tmp_path / "a.mp4").shape == frames(engine_items[0].source).shape


def test_a_wrong_clip_is_another_source_in_this_one_s_shape(engine_items, tmp_path):
    short = dataclasses.replace(engine_items[0], source=tmp_path / "photo.png", file_name="photo.png")
    write_photos(tmp_path, 1)
    (tmp_path / "0.png").rename(tmp_path / "photo.png")
    items = [short, dataclasses.replace(short, id="again"), engine_items[0]]
    picture = frames(control("wrong-clip", items, tmp_path / "o.png"))
    assert picture.shape == (1, 128, 128, 3)
    clip = frames(control("wrong-clip", items, tmp_path / "o.mp4", 2))
    assert clip.shape == frames(engine_items[0].source).shape
    assert all(np.array_equal(clip[0], one) for one in clip), "a picture that is too short for a clip is repeated"
    with pytest.raises(EditFailedError, match="same source"):
        control("wrong-clip", items[:2], tmp_path / "o.png")


def test_an_unknown_control_is_refused(engine_items):
    with pytest.raises(UserError, match="identity, wrong-clip, noise, half, perfect, known-drawing"):
        ControlEditor(control="copy", items=engine_items)
    assert set(CONTROLS) == {"identity", "wrong-clip", "noise", "half", "perfect", "known-drawing"}


def test_a_known_drawing_needs_the_engine_s_items(engine_items, tmp_path):
    shutil.copy(engine_items[0].source, tmp_path / "clip.mp4")
    other = dataclasses.replace(engine_items[0], source=tmp_path / "clip.mp4", target=None, mask=None)
    with pytest.raises(UserError, match=r"known-drawing is for items that the synthetic engine made: .* holds no set"):
        ControlEditor(control="known-drawing", items=[*engine_items, other])
    stranger = dataclasses.replace(engine_items[0], id="test-9-0000000")
    with pytest.raises(EditFailedError, match="no sample of the engine's set"):
        ControlEditor(control="known-drawing", items=[stranger])(stranger, tmp_path / "o.mp4")


def test_a_known_drawing_is_the_target_where_nothing_new_is_brought_in(engine_items, tmp_path):
    for item in engine_items:
        made = frames(control("known-drawing", [item], tmp_path / f"{item.id}.mp4"))
        is_target = np.array_equal(made, frames(item.target))
        assert is_target != (item.task in ("local_add", "replace")), item.id


# Models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny.pipeline().save_pretrained(folder)
    return str(folder)


def test_a_pipeline_is_an_editor(model, item, tmp_path, one_thread):  # noqa: ARG001 (a fixture)
    edit = EditSettings(num_inference_steps=1)
    editor = PipelineEditor(model=model, edit=edit, loading={"device": "cpu"})
    editor(item, tmp_path / "o.mp4")
    assert frames(tmp_path / "o.mp4").shape == frames(item.source).shape
    editor(dataclasses.replace(item, target=None), tmp_path / "judged.mp4")
    pixels = [av.open(str(tmp_path / name)).streams.video[0].pix_fmt for name in ("o.mp4", "judged.mp4")]
    assert pixels == ["gbrp", "yuv420p"]  # exact scores count every pixel
    assert editor.name == "model"
    assert editor.settings["weights"].startswith("sha256:")
    assert json.loads(json.dumps(editor.settings)) == editor.settings
    with pytest.raises(EditFailedError, match="instruction is empty"):
        editor(dataclasses.replace(item, instruction=" "), tmp_path / "e.mp4")


def test_a_model_that_is_not_there_stops_the_run(item, tmp_path):
    editor = PipelineEditor(model=os.fspath(tmp_path / "none"), edit=EditSettings())
    with pytest.raises(UserError, match="unknown model"):
        editor(item, tmp_path / "o.mp4")
