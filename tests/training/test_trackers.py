"""Runs in the trackers that they name: Weights & Biases and Trackio themselves, without a network."""

import importlib
import json
import os
import struct
import sys
from dataclasses import replace

import pytest

from sama_video.system.errors import UserError
from sama_video.training.config import LoggingConfig
from sama_video.training.logs.runlog import RunLog
from sama_video.training.logs.trackers import check_trackers
from sama_video.training.stages import run_stages
from tests.training.test_runlog import Numbers
from tests.training.test_validation import SET, config, init, train  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Nobody is logged in and nothing is sent."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def pieces(data):
    """Records of a LevelDB log behind wandb's 7 bytes: pieces with checksum, length and kind, in blocks of 32 KiB."""
    begun, position = b"", 7
    while position + 7 <= len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        begun += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole one, or the last piece
            yield begun
            begun = b""


def wandb_records(file):
    """Of what wandb wrote for a run that is sent later, by kind."""
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found = {}
    for piece in pieces(file.read_bytes()):
        record = proto.Record()
        record.ParseFromString(piece)
        found.setdefault(record.WhichOneof("record_type"), []).append(record)
    return found


def history(records):
    rows = []
    for record in records["history"]:
        items = record.history.item
        rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return rows


def test_wandb_has_a_run_with_its_settings_curves_and_pictures_and_a_resumed_one_continues_it(init, tmp_path):  # noqa: F811
    import wandb

    out = tmp_path / "run"
    tracked = LoggingConfig(trackers=("wandb", "tensorboard"), project="films")
    mine = replace(SET, families=("local_add",))
    train(replace(config(init, mine, num_steps=2), logging=tracked), out)
    train(replace(config(init, mine, num_steps=4), logging=tracked), out)
    wandb.teardown()  # its files are whole once its service has ended
    name = json.loads((out / "tracking.json").read_text())["run"]
    first, second = (wandb_records(next(one.glob("*.wandb"))) for one in sorted((out / "wandb").glob("offline-run-*")))
    for records in (first, second):
        run = records["run"][0].run
        assert (run.run_id, run.project, run.display_name) == (name, "films", f"{tmp_path.name}-run")
    settings = {item.key: item.value_json for one in first["config"] for item in one.config.update}
    assert json.loads(settings["optimizer"])["learning_rate"] == 1e-3
    rows = history(first) + history(second)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = {row["_step"]: row["loss"] for row in rows if "loss" in row}
    assert losses == pytest.approx({line["step"]: line["loss"] for line in logged if "loss" in line})
    for name in ("validation/sheet", "validation/00-local_add"):
        assert {row["_step"]: row[f"{name}/_type"] for row in rows if f"{name}/_type" in row} == dict.fromkeys(
            (2, 4), "image-file"
        )


def test_trackio_has_them_too(init, tmp_path):  # noqa: F811
    trackio = pytest.importorskip("trackio")
    out = tmp_path / "run"
    tracked = LoggingConfig(trackers=("trackio",), project="films")
    mine = replace(SET, families=("local_add",))
    train(replace(config(init, mine, num_steps=2), logging=tracked), out)
    train(replace(config(init, mine, num_steps=4), logging=tracked), out)
    (run,) = trackio.Api().runs("films")
    assert run.name.endswith(json.loads((out / "tracking.json").read_text())["run"])


def test_tensorboard_shows_the_sheet(init, tmp_path):  # noqa: F811
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(config(init, replace(SET, families=("local_add",)), num_steps=2), tmp_path)
    curves = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (shown,) = curves.Images("validation/sheet")
    assert shown.step == 2
    assert shown.encoded_image_string.startswith(b"\x89PNG")


def test_processes_that_do_not_write_open_no_tracker(tmp_path):
    tracked = LoggingConfig(trackers=("wandb",))
    with RunLog(tmp_path / "run", step=0, num_steps=2, log_every=1, writes=False, tracking=tracked) as log:
        log.step(1, Numbers())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_told_before_anything_begins(name, init, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, name, None)
    run = replace(config(init), logging=LoggingConfig(trackers=(name,)))
    with pytest.raises(UserError, match=f"pip install {name}, or take it out of logging.trackers"):
        run_stages([run], tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_nobody_logged_in_is_told_before_anything_begins(monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    wandb.teardown()
    try:
        with pytest.raises(UserError, match="run 'wandb login' or set WANDB_API_KEY; set WANDB_MODE=offline"):
            check_trackers(LoggingConfig(trackers=("wandb",)))
    finally:
        wandb.teardown()
