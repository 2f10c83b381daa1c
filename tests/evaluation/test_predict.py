import dataclasses
import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sama_video.cli.app import app, normalise_arguments
from sama_video.data.manifest import Row
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.editors import CommandEditor, ControlEditor, EditFailedError
from sama_video.evaluation.pairs import manifest_items
from sama_video.evaluation.predict import predict, select_items, summary
from sama_video.evaluation.records import PREDICTIONS, Prediction, RunInfo, predictions_of, read_records, read_run
from sama_video.judge.redact import MASK
from sama_video.system.errors import UserError
from tests.kills import run_sama

INFO = RunInfo(benchmark="engine", version="1", data="", editor="copy")
COPY = CommandEditor(template="cp {source} {output}")


@dataclasses.dataclass
class Flaky:
    """Copies, except for some items."""

    broken: set[str]
    name = "flaky"
    settings = {"kind": "flaky"}  # noqa: RUF012
    calls: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, item, output):
        self.calls.append(item.id)
        if item.id in self.broken:
            raise EditFailedError("no idea")
        output.write_bytes(item.source.read_bytes())


def timeless(path):
    """All records in their order, without what differs from run to run."""
    return [dataclasses.replace(one, seconds=0) for one in read_records(path / PREDICTIONS, Prediction)]


def test_every_item_gets_a_video_where_its_task_is_and_a_record(engine_items, tmp_path):
    predictions = predict(INFO, engine_items, COPY, tmp_path)
    assert [one.item for one in predictions] == [item.id for item in engine_items]
    for item, one in zip(engine_items, predictions, strict=True):
        assert one.file == f"videos/{item.task}/{item.file_name}"
        assert (tmp_path / one.file).read_bytes() == item.source.read_bytes()
        assert one.sha256 == hashlib.sha256(item.source.read_bytes()).hexdigest()
    assert list(predictions_of(tmp_path).values()) == predictions
    info, items = read_run(tmp_path)
    assert items == engine_items
    assert info.settings == {"command": COPY.template}
    assert not list(tmp_path.glob("working-*"))
    assert summary(predictions) == ["8 of 8 edited, 0 failed"]


def test_a_key_in_the_editors_command_is_in_no_record(engine_items, tmp_path):
    key = "sk-MARKER-123456"
    script = tmp_path / "edit.py"
    script.write_text("import sys; sys.exit(f'wrong key: {sys.argv[2]}')")
    editor = CommandEditor(template=f"{sys.executable} {script} --api-key {key} {{source}} {{output}}")
    run = tmp_path / "run"
    predictions = predict(INFO, engine_items[:1], editor, run)
    assert predictions[0].reason == f"exit code 1: wrong key: {MASK}"
    assert not [path for path in run.rglob("*") if path.is_file() and key in path.read_text(errors="replace")]
    # A run that an earlier release began, with the key in its record.
    (run / "run.json").write_text((run / "run.json").read_text().replace(MASK, key))
    predict(INFO, engine_items[:1], editor, run)
    assert key not in (run / "run.json").read_text()
    with pytest.raises(UserError, match="is of another run"):
        predict(INFO, engine_items[:1], dataclasses.replace(editor, template=f"other {editor.template}"), run)


def test_a_failure_is_a_record_and_the_others_go_on(engine_items, tmp_path):
    broken = engine_items[2].id
    predictions = predict(INFO, engine_items, Flaky({broken}), tmp_path)
    assert [one.item for one in predictions if one.status == "failed"] == [broken]
    assert predictions[2].reason == "no idea"
    assert summary(predictions) == ["7 of 8 edited, 1 failed", "  failed, 1: no idea"]


def test_going_on_edits_what_failed_and_nothing_else(engine_items, tmp_path):
    broken = engine_items[2].id
    predict(INFO, engine_items, Flaky({broken}), tmp_path)
    for retry, calls in ((False, []), (True, [broken]), (True, [])):
        editor = Flaky(set())
        predictions = predict(INFO, engine_items, editor, tmp_path, retry_failed=retry)
        assert editor.calls == calls
    assert all(one.status == "ok" for one in predictions)


def test_a_video_that_was_deleted_is_made_again(engine_items, tmp_path):
    first = predict(INFO, engine_items, COPY, tmp_path)
    (tmp_path / first[3].file).unlink()
    predict(INFO, engine_items, COPY, tmp_path)
    assert (tmp_path / first[3].file).is_file()
    assert len(timeless(tmp_path)) == len(engine_items) + 1


class Raising:
    """Copies, except for some items, for which it raises what nobody foresaw."""

    name = "raising"
    settings = {"kind": "raising"}  # noqa: RUF012

    def __init__(self, errors):
        self.errors = errors

    def __call__(self, item, output):
        if item.id in self.errors:
            output.write_bytes(b"half")
            raise self.errors[item.id]
        output.write_bytes(item.source.read_bytes())


def test_an_unexpected_exception_is_its_items_record_and_the_run_resumes_behind_it(engine_items, tmp_path):
    errors = [ValueError("bad\nnumber"), ZeroDivisionError(), MemoryError(), RecursionError("deep"), OSError(5, "I/O")]
    raising = Raising({item.id: error for item, error in zip(engine_items[1:], errors, strict=False)})
    for _ in range(2):
        predictions = predict(INFO, engine_items, raising, tmp_path)
        assert [one.status for one in predictions] == ["ok", *["failed"] * 5, "ok", "ok"]
    assert predictions[1].reason == "ValueError: bad number"
    assert predictions[5].reason.startswith("OSError: ")
    assert not list(tmp_path.glob("working-*"))
    predictions = predict(INFO, engine_items, Raising({}), tmp_path)
    assert {one.status for one in predictions} == {"ok"}


STRANGE = ["x" * 300, "../../up", "nul", "a/b", "a:b", "A:B", "new\nline", "\x1b[31m", "ünï", "-rf", "*", "${HOME}"]


def test_items_of_any_name_and_instruction_are_edited_or_recorded(engine_items, tmp_path):
    rows = [
        Row(id=name, src_video=str(engine_items[0].source), prompt=f"{name}\x00" if name == "*" else name, type=name)
        for name in STRANGE
    ]
    command = CommandEditor(template="cp {source} {output}")
    predictions = predict(INFO, manifest_items(rows), command, tmp_path / "run")
    assert [one.status for one in predictions] == ["ok"] * len(rows)
    assert {path.parent.parent for path in (tmp_path / "run").rglob("*.mp4")} == {tmp_path / "run" / "videos"}
    spoken = CommandEditor(template=f"{sys.executable} -c '{COPY_ALL}' {{source}} {{output}} {{instruction}}")
    predictions = predict(INFO, manifest_items(rows), spoken, tmp_path / "other")
    assert [one.item for one in predictions if one.status == "failed"] == ["*"]
    assert [one.item for one in predictions_of(tmp_path / "other").values()] == STRANGE
    assert predict(INFO, manifest_items(rows), spoken, tmp_path / "other") != []


COPY_ALL = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
FULL = """
import resource, sys
from pathlib import Path
from sama_video.system.errors import UserError
from sama_video.evaluation.editors import ControlEditor
from sama_video.evaluation.predict import predict
from sama_video.evaluation.records import read_run
info, items = read_run(Path(sys.argv[1]))
items.sort(key=lambda item: item.source.stat().st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, (items[2].source.stat().st_size,) * 2)
try:
    predict(info, items, ControlEditor(control="identity", items=items), Path(sys.argv[2]))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a full disk is simulated by a limit of the size of files")
def test_a_full_disk_is_one_sentence_and_the_run_resumes(engine_items, tmp_path):
    predict(INFO, engine_items, COPY, tmp_path / "items")
    run = tmp_path / "run"
    command = [sys.executable, "-c", FULL, str(tmp_path / "items"), str(run)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"the disk is full: free some space in {run} and start the same command again")
    assert sorted(one.status for one in predictions_of(run).values()) == ["ok"] * 3
    assert not list(run.glob("working-*"))
    info, items = read_run(run)
    predictions = predict(info, items, ControlEditor(control="identity", items=items), run)
    assert {one.status for one in predictions} == {"ok"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("true {source} {output}", "wrote no output"),
        ("cp {source}.txt {output}", "exit code 1"),
        ("cp /bin/sh {output} -u {source}", "exit code 1"),
        ("touch {source} {output}", "does not decode"),
    ],
)
def test_what_is_no_video_is_a_failure(engine_items, tmp_path, command, reason):
    item = engine_items[0]
    prediction = predict(INFO, [item], CommandEditor(template=command), tmp_path)[0]
    assert prediction.status == "failed"
    assert reason in prediction.reason
    assert "working" not in prediction.reason
    assert not (tmp_path / "videos").exists()


def test_a_source_that_is_missing_fails_its_item(engine_items, tmp_path):
    gone = dataclasses.replace(engine_items[0], source=tmp_path / "gone.mp4")
    assert "no source" in predict(INFO, [gone], COPY, tmp_path / "run")[0].reason


def test_a_folder_holds_one_run(engine_items, tmp_path):
    predict(INFO, engine_items, COPY, tmp_path)
    with pytest.raises(UserError, match="another run"):
        predict(INFO, engine_items, Flaky(set()), tmp_path)
    with pytest.raises(UserError, match="another run"):
        predict(dataclasses.replace(INFO, version="2"), engine_items, COPY, tmp_path)
    with pytest.raises(UserError, match="another run"):
        predict(INFO, engine_items[:4], COPY, tmp_path)


def test_a_run_of_few_items_grows(engine_items, tmp_path):
    predict(INFO, engine_items[2:4], COPY, tmp_path / "grown")
    predict(INFO, engine_items, COPY, tmp_path / "grown")
    predict(INFO, engine_items, COPY, tmp_path / "whole")
    assert read_run(tmp_path / "grown") == read_run(tmp_path / "whole")
    order = sorted(timeless(tmp_path / "grown"), key=lambda one: one.item)
    assert order == timeless(tmp_path / "whole")


def test_items_are_selected_by_task_and_number(engine_items):
    twice = [*engine_items, *(dataclasses.replace(item, id=f"{item.id}-b") for item in engine_items)]
    task = engine_items[1].task
    assert select_items(twice, limit=1) == engine_items
    assert [item.task for item in select_items(twice, [task])] == [task, task]
    assert select_items(twice, [task], 1) == [engine_items[1]]
    with pytest.raises(UserError, match="no item of the task 'paint'; there are local_add"):
        select_items(twice, ["paint"])
    with pytest.raises(UserError, match="at least 1"):
        select_items(twice, limit=0)


# Killed

SLOW_COPY = f"""{sys.executable} -c 'import shutil, sys, time; time.sleep(0.05)
if "-0000003" in sys.argv[1]: sys.exit("cannot")
shutil.copy(sys.argv[1], sys.argv[2])' {{source}} {{output}}"""


def script(folder, items_from):
    """A process that predicts as the command does, without the time that the command takes to start."""
    code = (
        "import sys; from pathlib import Path; from sama_video.evaluation import predict as p, records as r; "
        "from sama_video.evaluation.editors import CommandEditor; "
        "info, items = r.read_run(Path(sys.argv[1])); "
        "p.predict(info, items, CommandEditor(template=sys.argv[3]), Path(sys.argv[2]))"
    )
    return [sys.executable, "-c", code, str(items_from), str(folder), SLOW_COPY]


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_as_if_nothing_had_happened(engine_items, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    predict(INFO, engine_items, CommandEditor(template=SLOW_COPY), undisturbed)
    for lines in (1, 3, 4, 7):
        process = subprocess.Popen(script(killed, undisturbed))
        while process.poll() is None and _lines(killed / PREDICTIONS) < lines:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(script(killed, undisturbed), check=True)
    # What failed before a kill was tried again after it: the last record of each item counts.
    last = {one.item: one for one in timeless(killed)}
    assert last == {one.item: one for one in timeless(undisturbed)}
    assert sum(one.status == "ok" for one in timeless(killed)) == len(engine_items) - 1
    files = [sorted(path.relative_to(run) for path in run.rglob("*.mp4")) for run in (killed, undisturbed)]
    assert files[0] == files[1]
    assert not list(killed.glob("working-*"))


@pytest.mark.slow
def test_the_command_killed_ten_times_ends_as_if_nothing_had_happened(tmp_path):
    """At any moment, also while it makes the engine's set."""

    def command(out):
        copy = ["--editor", SLOW_COPY, "--name", "copy"]
        return ["eval", "predict", "engine", "--out", out, *copy]

    rng = random.Random(0)
    killed, quiet = tmp_path / "killed" / "run", tmp_path / "quiet" / "run"
    for _ in range(10):
        run_sama(command(killed), rng.uniform(0, 3))
    for out in (killed, quiet):
        assert run_sama(command(out)) == 1  # items 3 fail
    last = [{one.item: one for one in timeless(out)} for out in (killed, quiet)]
    assert last[0] == last[1]
    files = [{path.relative_to(out.parent) for path in out.parent.rglob("*")} for out in (killed, quiet)]
    assert files[0] == files[1]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


# The command


def sama(*arguments):
    return CliRunner().invoke(app, normalise_arguments([str(part) for part in arguments]))


def test_the_command_runs_a_benchmark_a_manifest_and_a_folder(engine_folder, engine_items, tmp_path):
    copy = ("--editor", "cp {source} {output}")
    result = sama("eval", "predict", "engine", "--data", engine_folder, "--out", tmp_path / "a", "--limit", "1", *copy)
    assert result.exit_code == 0, result.output
    assert "8 of 8 edited" in result.output
    info, items = read_run(tmp_path / "a")
    assert (info.benchmark, info.version, info.editor, items) == (
        "engine",
        find_benchmark("engine").version,
        "cp",
        engine_items,
    )

    manifest = engine_folder / "manifest.csv"
    result = sama("eval", "predict", "--manifest", manifest, "--out", tmp_path / "b", "--control", "perfect")
    assert result.exit_code == 0, result.output
    assert read_run(tmp_path / "b")[0].editor == "perfect"

    (tmp_path / "a" / "videos" / items[0].task / items[0].file_name).unlink()
    folder = ("--from-folder", tmp_path / "a" / "videos", "--name", "peer")
    result = sama("eval", "predict", "engine", "--data", engine_folder, "--out", tmp_path / "c", *folder)
    assert result.exit_code == 1
    assert "7 of 8 edited, 1 failed" in result.output
    assert read_run(tmp_path / "c")[0].editor == "peer"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--manifest FILE"),
        (("engine", "--manifest", "x.csv"), "give a benchmark"),
        (("reco-bench",), "needs --data"),
        (("nonesuch",), "unknown benchmark"),
        (("engine", "--editor", "cp {source} {output}", "--control", "noise"), "give one of them"),
        (("engine", "--control", "noise", "--seed", "1"), "--seed has no effect with --control"),
        (("engine", "--control", "noise", "--timeout", "9"), "--timeout has no effect with --control"),
        (
            ("engine", "--editor", "cp {source} {output}", "--max-pixels", "9"),
            "--max-pixels has no effect with --editor",
        ),
        (("engine", "--column-map", "a=b"), "--column-map has no effect with a benchmark"),
    ],
)
def test_bad_requests_say_how_to_mend_them(arguments, message, tmp_path):
    result = sama("eval", "predict", *arguments, "--out", tmp_path / "run")
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
