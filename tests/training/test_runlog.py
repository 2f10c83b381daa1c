import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from accelerate.tracking import GeneralTracker

from sama_video.system.errors import UserError
from sama_video.training.logs.runlog import RunLog, finite, forget_after, read_metrics


@dataclass(frozen=True, kw_only=True)
class Numbers:
    loss: float = 1.0
    semantic_loss: float = 0.5
    gradient_norm: float = 2.0
    learning_rate: float = 1e-4
    num_tokens: int = 100
    seconds: float = 2.0
    waited: float = 0.1
    flow_by_sigma: list[float] = field(default_factory=lambda: [0.5, float("nan")])


def steps_of(file):
    return [(record["step"], "validation" in record) for record in read_metrics(file)]


def open_log(folder, step=0, **changes):
    return RunLog(folder, **({"step": step, "num_steps": 10, "log_every": 2} | changes))


def test_every_step_is_a_line_of_plain_json(tmp_path):
    with open_log(tmp_path) as log:
        for step in (1, 2, 3):
            log.step(step, Numbers(loss=step / 2))
        log.validation(3, {"all": {"psnr": 20.0, "success": None}})
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["loss"] for record in records[:3]] == [0.5, 1.0, 1.5]
    assert records[0]["flow_by_sigma"] == [0.5, None]
    assert records[0]["tokens_per_second"] == 50
    assert records[0]["memory_gib"] > 0
    assert records[3] == {"step": 3, "validation": {"all": {"psnr": 20.0, "success": None}}}
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_resumed_run_holds_every_step_once(tmp_path):
    with open_log(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log.step(step, Numbers(loss=1))
            log.validation(step, {"all": {"psnr": 1.0}})
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 5, "lo')  # killed while it wrote
    with open_log(tmp_path, step=2) as log:
        for step in (3, 4, 5):
            log.step(step, Numbers(loss=2))
    expected = [(1, False), (1, True), (2, False), (2, True), (3, False), (4, False), (5, False)]
    assert steps_of(tmp_path / "metrics.jsonl") == expected
    losses = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert losses == [1, 1, 2, 2, 2]


def test_forgetting_leaves_what_is_behind_untouched(tmp_path):
    file = tmp_path / "metrics.jsonl"
    forget_after(file, 3)
    assert not file.exists()
    lines = [json.dumps({"step": step, "loss": 0.1 + step}) for step in range(1, 5)]
    file.write_text("\n".join(lines) + "\n")
    forget_after(file, 9)
    assert file.read_text().splitlines() == lines


def test_other_processes_write_nothing(tmp_path):
    with open_log(tmp_path, writes=False) as log:
        log.step(1, Numbers())
        log.validation(1, {"all": {}})
    assert not list(tmp_path.iterdir())


def test_the_console_gets_every_nth_step_with_the_time_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO), open_log(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log.step(step, Numbers())
    told = [record.message for record in caplog.records if record.message.startswith("step")]
    assert [line.split()[1] for line in told] == ["2/10", "4/10"]
    assert "0:00:12 left" in told[1]


def test_without_tensorboard_it_says_so_once_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO), open_log(tmp_path) as log:
        for step in (1, 2, 3):
            log.step(step, Numbers())
    assert caplog.text.count("sama-video[train]") == 1
    assert len(steps_of(tmp_path / "metrics.jsonl")) == 3


def test_tensorboard_holds_the_curves(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_log(tmp_path) as log:
        for step in (1, 2):
            log.step(step, Numbers(loss=step))
        log.validation(2, {"all": {"psnr": 20.0, "success": None}})
    curves = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in curves.Scalars("loss")] == [(1, 1.0), (2, 2.0)]
    assert curves.Scalars("validation/all/psnr")[0].value == 20
    assert "flow_by_sigma/1" not in curves.Tags()["scalars"]


def test_finite_keeps_the_rest():
    assert finite({"a": [float("inf"), 1, "x"], "b": None}) == {"a": [None, 1, "x"], "b": None}


def test_a_full_disk_is_told(tmp_path):
    with RunLog(tmp_path, step=0, num_steps=2, log_every=1) as log:
        log.file = Path("/dev/full")
        with pytest.raises(UserError, match=r"/dev/full \(No space left"):
            log.validation(1, {"all": {"psnr": 20.0}})


def test_a_tracker_that_fails_does_not_end_a_run(tmp_path, caplog):
    """Its network went away, say: the others and the file get everything."""

    class Failing(GeneralTracker):
        name, requires_logging_directory = "elsewhere", False

        def __init__(self):
            super().__init__(_blank=True)

        def log(self, values, step, **_):  # noqa: ARG002
            raise OSError("no route to host")

    with caplog.at_level("INFO"), open_log(tmp_path) as log:
        log.trackers.insert(0, Failing())
        for step in (1, 2, 3):
            log.step(step, Numbers())
        assert [tracker.name for tracker in log.trackers] == ["tensorboard"]
    assert caplog.text.count("elsewhere failed and gets no more curves (no route to host)") == 1
    assert [step for step, _ in steps_of(tmp_path / "metrics.jsonl")] == [1, 2, 3]
