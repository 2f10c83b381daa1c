import hashlib
import json
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from sama_video.data.engine_set import EngineSetConfig, find_draft, read_engine_set, write_engine_set
from sama_video.data.manifest import read_manifest
from sama_video.synth.engine import VERSION, Engine
from sama_video.synth.sprites import NANO_VOCABULARY
from sama_video.system.errors import UserError
from sama_video.video import VideoReader
from tests.clips import write_clip
from tests.commands import ended_by, sama, start_sama

SMALL = {"num_frames": 5, "height": 64, "width": 96, "loose": 0.2}


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def frames(path):
    return np.stack([frame.pixels for frame in VideoReader(path).frames()])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("set")
    write_engine_set(EngineSetConfig(**SMALL), out, 16, workers=1)
    return out


def test_files_hold_the_engine_s_pixels_bit_for_bit(written):
    engine = Engine(loose=0.2)
    for index, row in enumerate(read_manifest(written / "manifest.csv")):
        sample = engine.pair(index, 5, 64, 96)
        assert np.array_equal(frames(row.src_video), sample.source)
        assert np.array_equal(frames(row.tgt_video), sample.target)
        assert np.array_equal(frames(row.mask)[..., 0] > 0, sample.mask)
        assert row.prompt == sample.instruction
        assert row.type == sample.family
        assert row.extra["exact"] == str(sample.exact).lower()
        assert row.extra["caption"] == sample.caption


def test_the_seed_reproduces_every_byte_whatever_the_number_of_processes(written, tmp_path):
    write_engine_set(EngineSetConfig(**SMALL), tmp_path, 16, workers=2)
    assert contents(tmp_path) == contents(written)


def test_a_larger_count_goes_on_and_leaves_what_is_there(written, tmp_path):
    write_engine_set(EngineSetConfig(**SMALL), tmp_path, 6, workers=1)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "source").iterdir()}
    write_engine_set(EngineSetConfig(**SMALL), tmp_path, 16, workers=1)
    assert contents(tmp_path) == contents(written)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(written, tmp_path):
    command = ["data", "synth", "--out", tmp_path, "--count", "16"]
    command += ["--num-frames", "5", "--height", "64", "--width", "96", "--loose", "0.2", "--workers", "1"]
    for files in (3, 20):
        process = start_sama(command)
        while process.is_alive() and sum(1 for _ in tmp_path.rglob("*.mp4")) < files:
            time.sleep(0.01)
        helpers = psutil.Process(process.pid).children(recursive=True)
        ended_by(process)
        assert not psutil.wait_procs(helpers, timeout=600)[1]
    assert sama(*command).returncode == 0
    kept = {name: digest for name, digest in contents(tmp_path).items() if not name.split("/")[-1].startswith(".")}
    assert kept == contents(written)


def test_a_set_is_never_shortened(written):
    before = contents(written)
    with pytest.raises(UserError, match="lists 16 samples; pass `count` 16 or more"):
        write_engine_set(EngineSetConfig(**SMALL), written, 8, workers=1)
    assert contents(written) == before


@pytest.mark.parametrize("numbers", [{"count": -1}, {"count": 4, "workers": 0}, {"count": 4, "workers": -1}])
def test_numbers_below_one_are_refused(numbers, tmp_path):
    with pytest.raises(UserError, match="must be at least 1"):
        write_engine_set(EngineSetConfig(**SMALL), tmp_path, **numbers)
    assert not list(tmp_path.iterdir())


def test_one_frame_writes_pictures(tmp_path):
    write_engine_set(EngineSetConfig(num_frames=1, height=64, width=64), tmp_path, 8, workers=1)
    for row in read_manifest(tmp_path / "manifest.csv"):
        assert row.src_video.endswith(".png")
        assert frames(row.src_video).shape == (1, 64, 64, 3)
    assert json.loads((tmp_path / "engine.json").read_text())["num_frames"] == 1


def test_other_settings_do_not_mix_into_a_folder(written):
    with pytest.raises(UserError, match="other settings"):
        write_engine_set(EngineSetConfig(**SMALL | {"seed": 1}), written, 16)


def test_a_set_of_an_older_engine_is_not_continued(written, tmp_path):
    text = (written / "engine.json").read_text()
    (tmp_path / "engine.json").write_text(text.replace(f'"engine": {VERSION}', '"engine": 1'))
    with pytest.raises(UserError, match="choose another folder"):
        write_engine_set(EngineSetConfig(**SMALL), tmp_path, 16)


@pytest.mark.slow
def test_one_command_paints_known_things_into_films_of_the_user_s(tmp_path):
    (tmp_path / "films").mkdir()
    for number in range(3):
        write_clip(tmp_path / "films" / f"{number}.mp4", 14 + number, height=64, width=96)
    command = ["data", "synth", "--out", tmp_path / "set", "--count", "6", "--split", "known", "--vocabulary", "nano"]
    command += ["--family", "local_remove", "--family", "local_change/colour", "--num-frames", "5", "--height", "64"]
    command += ["--width", "96", "--videos", tmp_path / "films", "--all-footage", "--footage-fraction", "1"]
    result = sama(*command, "--workers", "1")
    assert result.returncode == 0, result.stderr
    rows = list(read_manifest(tmp_path / "set" / "manifest.csv"))
    assert [row.extra["kind"] for row in rows] == ["local_remove", "local_change/colour"] * 3
    assert [row.type for row in rows] == ["local_remove", "local_change"] * 3
    assert all("a filmed scene" in row.extra["caption"] for row in rows)
    config = read_engine_set(tmp_path / "set")
    assert (config.split, config.vocabulary, config.all_footage) == ("known", NANO_VOCABULARY, True)
    for row in rows:
        drawn, draft = find_draft(Path(row.src_video), row.id)
        assert draft.instruction == row.prompt
        assert np.array_equal(drawn.render(draft).target, frames(row.tgt_video))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 65}, "even"),
        ({"width": 32}, "64x64"),
        ({"num_frames": 0}, "at least 1"),
        ({"loose": 2.0}, "between 0 and 1"),
        ({"split": "holdout"}, "split must be"),
        ({"families": ("paint",)}, "families must be"),
        ({"vocabulary": ("unicycle", *NANO_VOCABULARY)}, "no drawing of unicycle"),
        ({"footage_fraction": 2.0}, "`footage_fraction` must be between 0 and 1"),
        ({"images": "/nowhere"}, "no such folder"),
    ],
)
def test_bad_settings_say_what_would_do(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_engine_set(EngineSetConfig(**changes), tmp_path, 1)
