"""One edit over several processes, and many edits over several devices."""

import subprocess

import numpy as np
import pytest

from sama_video.video import VideoReader
from tests import tiny
from tests.clips import write_clip
from tests.commands import TORCHRUN, sama

EDIT = ("--model", "model", "--height", "32", "--width", "32", "--num-inference-steps", "2", "--crf", "0")


@pytest.fixture
def workplace(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "model")
    for name in ("a", "b", "c"):
        write_clip(tmp_path / f"{name}.mp4", 9, sound=True)
    return tmp_path


def pixels(file):
    return np.stack([frame.pixels for frame in VideoReader(file).frames()]).astype(np.int16)


@pytest.mark.slow
def test_two_processes_make_the_edit_of_one(workplace):
    arguments = ["edit", "a.mp4", "make it red", *EDIT]
    assert sama(*arguments, "-o", "one.mp4", cwd=workplace).returncode == 0
    spread = [*TORCHRUN, "--nproc-per-node", "2", "-m", "sama_video.cli", *arguments, "-o", "two.mp4"]
    result = subprocess.run(spread, cwd=workplace, capture_output=True, text=True, check=True)
    assert result.stdout.count("two.mp4") == 1
    assert np.abs(pixels(workplace / "one.mp4") - pixels(workplace / "two.mp4")).max() <= 1
    assert sorted(path.name for path in workplace.glob("*.mp4")) == ["a.mp4", "b.mp4", "c.mp4", "one.mp4", "two.mp4"]


@pytest.mark.slow
def test_replicas_make_the_edits_of_one_and_record_what_failed(workplace):
    rows = ["video,prompt", *(f"{name}.mp4,make it red" for name in ("a", "b", "c"))]
    (workplace / "jobs.csv").write_text("\n".join(rows))
    arguments = ["edit", "--manifest", "jobs.csv", *EDIT]
    assert sama(*arguments, "-o", "one", cwd=workplace).returncode == 0
    result = sama(*arguments, "-o", "two", "--replicas", "2", cwd=workplace)
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (workplace / "one").iterdir())
    assert sorted(path.name for path in (workplace / "two").iterdir()) == names
    for name in names:
        if name.endswith(".mp4"):
            assert np.abs(pixels(workplace / "one" / name) - pixels(workplace / "two" / name)).max() <= 1
    again = sama(*arguments, "-o", "two", "--replicas", "2", cwd=workplace)
    assert "3 of 3 results exist already" in again.stdout


def test_options_that_do_not_go_together(workplace):
    alone = sama("edit", "a.mp4", "make it red", "--replicas", "2", cwd=workplace)
    assert alone.returncode == 2
    assert "give them as a --manifest" in alone.stderr
