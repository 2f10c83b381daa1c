"""`sama edit --manifest` on a tiny model: every row by itself, failures recorded, nothing done twice."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from sama_video.cli.app import main
from sama_video.cli.edit_manifest import read_rows, setting_of, with_texts
from sama_video.editing import EditSettings, read_sidecar, sidecar_of
from sama_video.system.errors import UserError
from tests import tiny
from tests.clips import write_clip
from tests.kills import run_sama


@pytest.fixture(scope="module")
def model(tmp_path_factory, one_thread):  # noqa: ARG001
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.pipeline(native_num_frames=9, default_num_inference_steps=1).save_pretrained(folder)
    return folder


class Command:
    """`sama edit --manifest jobs.csv -o results` in this process: exit code, output, what is in the folder then."""

    def __init__(self, folder, model, monkeypatch, capsys):
        self.folder, self.model, self.monkeypatch, self.capsys = folder, model, monkeypatch, capsys
        self.out = folder / "results"

    def manifest(self, text, name="jobs.csv"):
        (self.folder / name).write_text(text)

    def __call__(self, *options, name="jobs.csv"):
        arguments = ["edit", "--manifest", self.folder / name, "-o", self.out, "--model", self.model, *options]
        self.monkeypatch.setattr(sys, "argv", ["sama", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            signal.signal(signal.SIGTERM, before)
        self.stdout, self.stderr = self.capsys.readouterr()
        assert "Traceback" not in self.stderr
        return code

    @property
    def written(self):
        return sorted(path.name for path in self.out.iterdir()) if self.out.exists() else []

    @property
    def failures(self):
        record = self.out / "jobs.failures.jsonl"
        return {one["row"]: one["error"] for one in map(json.loads, record.read_text().splitlines())}

    def record(self, name):
        return read_sidecar(self.out / name)


@pytest.fixture
def sama(tmp_path, model, monkeypatch, capsys):
    write_clip(tmp_path / "clip.mp4", 3)
    return Command(tmp_path, model, monkeypatch, capsys)


def test_columns_are_settings_in_every_spelling():
    assert setting_of("Seed") == setting_of("base_seed") == setting_of("--seed") == "seed"
    assert setting_of("CFG scale") == setting_of("guidance_scale") == "guidance_scale"
    assert setting_of("steps") == setting_of("num_inference_steps") == "num_inference_steps"
    assert setting_of("loudness") is None
    texts = {"seed": "7.0", "steps": "3", "cfg_scale": "2.5", "negative_prompt": "12", "size": "64x48", "fit": "crop"}
    settings = with_texts(EditSettings(seed=1, start=2.0), texts)
    assert settings == EditSettings(
        seed=7,
        num_inference_steps=3,
        guidance_scale=2.5,
        negative_prompt="12",
        width=64,
        height=48,
        fit="crop",
        start=2.0,
    )
    assert with_texts(EditSettings(), {"seed": str(2**60 + 1)}).seed == 2**60 + 1
    assert [with_texts(EditSettings(), {"fast": text}).fast for text in ("True", "0", "yes")] == [True, False, True]
    for texts, message in (
        ({"seed": "1.5"}, "seed must be a whole number, got '1.5'"),
        ({"start": "soon"}, "start: 'soon' is no time; give seconds or mm:ss"),
        ({"size": "big"}, "size must be WIDTHxHEIGHT"),
        ({"seed": "1", "base_seed": "2"}, "another column both give `seed`"),
        ({"num_frames": "0"}, "must be at least 1"),
        ({"detail": "much"}, "must be one of"),
        ({"fast": "very"}, "fast must be true or false"),
    ):
        with pytest.raises(UserError, match=message):
            with_texts(EditSettings(), texts)


def test_a_row_s_own_settings_are_used_and_other_columns_named(sama):
    sama.manifest(
        "video,prompt,output,seed,num_frames,cfg_scale,mood,mask\n"
        "clip.mp4,x,a.mp4,5,2,2.0,sad,clip.mp4\nclip.mp4,x,b.mp4,,,,,\n"
    )
    assert sama("--seed", 3) == 0, sama.stderr
    assert sama.stderr.count("columns not used: mood") == 1
    assert sama.record("a.mp4")["settings"]["seed"] == 5
    assert sama.record("a.mp4")["settings"]["guidance_scale"] == 2.0
    assert Path(sama.record("a.mp4")["mask"]["path"]).name == "clip.mp4"
    assert sama.record("b.mp4")["mask"] is None
    assert sama.record("a.mp4")["source"]["num_frames"] == 2
    assert sama.record("b.mp4")["settings"]["seed"] == 3
    assert sama.record("b.mp4")["source"]["num_frames"] == 3
    assert sama("--seed", 3) == 0
    assert "2 of 2 results exist already" in sama.stdout
    assert sama("--seed", 4) == 1  # the row with a seed of its own is the same
    assert list(sama.failures) == [2]
    assert "another --seed" in sama.failures[2]


def test_bad_rows_do_not_stop_the_others_and_are_tried_again(sama):
    shutil.copy(sama.folder / "clip.mp4", sama.folder / "cut.mp4")
    os.truncate(sama.folder / "cut.mp4", 500)
    sama.manifest(
        "video,prompt,output,seed\nnone.mp4,x,a.mp4,\nclip.mp4,x,b.mp4,\ncut.mp4,x,c.mp4,\nclip.mp4,x,d.mp4,many\n"
        "clip.mp4,,e.mp4,\nclip.mp4,x,f.avi,\nclip.mp4,x,sub/g.mp4,\n"
    )
    assert sama() == 1
    assert "5 of 7 rows of jobs.csv failed" in sama.stderr
    assert sama.written == ["b.mp4", "b.mp4.json", "jobs.failures.jsonl", "sub"]
    assert list(sama.failures) == [1, 3, 4, 5, 6]
    for row, words in {1: "no such video", 3: "cut.mp4", 4: "seed must be a whole", 5: "lacks", 6: ".avi"}.items():
        assert words in sama.failures[row]
    before = (sama.out / "b.mp4").stat().st_mtime_ns
    sama.manifest("video,prompt,output,seed\nclip.mp4,x,a.mp4,\nclip.mp4,x,b.mp4,\nclip.mp4,x,sub/g.mp4,\n")
    assert sama() == 0
    assert sama.written == ["a.mp4", "a.mp4.json", "b.mp4", "b.mp4.json", "sub"]
    assert (sama.out / "b.mp4").stat().st_mtime_ns == before


def test_a_row_that_fails_while_it_is_edited_does_not_stop_the_others(sama, monkeypatch):
    from sama_video.editing import editor

    def encode(pipe, frames, *rest, _real=editor.edit_frames):
        if (sama.out / "a.mp4").exists() and not (sama.out / "c.mp4").exists() and not sama.failed:
            sama.failed = True
            raise ZeroDivisionError("of all things")
        return _real(pipe, frames, *rest)

    sama.failed = False
    monkeypatch.setattr(editor, "edit_frames", encode)
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\nclip.mp4,x,b/b.mp4\nclip.mp4,x,c.mp4\n")
    assert sama() == 1
    assert sama.written == ["a.mp4", "a.mp4.json", "c.mp4", "c.mp4.json", "jobs.failures.jsonl"]
    assert "unexpected error: ZeroDivisionError: of all things" in sama.failures[2]
    assert "row 2 failed" in sama.stderr
    assert sama() == 0
    assert sama.written == ["a.mp4", "a.mp4.json", "b", "c.mp4", "c.mp4.json"]


def test_a_full_disk_stops_the_batch(sama, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\nclip.mp4,x,b.mp4\n")
    monkeypatch.setattr("sama_video.editing.editor.VideoWriter.write", full_disk)
    assert sama() == 2
    assert "the disk is full" in sama.stderr.splitlines()[-1]
    assert "stopped after 0 of 2 edits; the same command resumes" in sama.stderr
    assert list(sama.failures) == [1]


def test_a_start_that_fails_leaves_nothing(sama):
    before = sorted(path.name for path in sama.folder.iterdir())
    sama.manifest("video,prompt,output\nnone.mp4,x,a.mp4\nclip.mp4,,b.mp4\n")
    assert sama() == 2
    assert "no row of jobs.csv can be edited" in sama.stderr
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\nnone.mp4,x,b.mp4\n")
    assert sama("--dry-run") == 1
    assert "row 2: no such video" in sama.stderr
    broken = shutil.copytree(sama.model, sama.folder / "broken")
    os.truncate(broken / "vae" / "diffusion_pytorch_model.safetensors", 1000)
    sama.model = broken
    assert sama() == 2
    assert sorted(path.name for path in sama.folder.iterdir()) == sorted([*before, "broken", "jobs.csv"])


@pytest.mark.parametrize("output", ["../x.mp4", "../../x.mp4", "sub/../../x.mp4", "{}/x.mp4", "link/x.mp4"])
def test_outputs_stay_inside(output, sama, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    if output.startswith("link"):
        sama.out.mkdir()
        (sama.out / "link").symlink_to(elsewhere)
    (sama.folder / "deep").mkdir()
    sama.out = sama.out if sama.out.exists() else sama.folder / "deep" / "results"
    output = output.format(elsewhere)
    sama.manifest(f"video,prompt,output\nclip.mp4,x,{output}\nclip.mp4,x,sub/../fine.mp4\n")
    assert sama("--dry-run") == 1
    assert "outside of" in sama.stderr
    assert "--allow-outside" in sama.stderr
    assert sama("--dry-run", "--allow-outside") == 0, sama.stderr


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (("a.mp4", "a.mp4"), "would both write a.mp4"),
        (("a.mp4", "A.MP4"), "would both write"),
        (("e\u0301.mp4", "\u00e9.mp4"), "would both write"),
        (("a.mp4", "sub/../a.mp4"), "would both write"),
        (("a.mp4", "a_compare.mp4"), "would both write a_compare.mp4"),
    ],
)
def test_rows_do_not_write_the_same_file(outputs, words, sama):
    sama.manifest("video,prompt,output\n" + "".join(f"clip.mp4,x,{output}\n" for output in outputs))
    assert sama("--compare", "--dry-run") == 2
    assert words in sama.stderr
    if outputs[1] == "a_compare.mp4":
        assert sama("--dry-run") == 0


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_no_row_writes_a_source(link, sama):
    write_clip(sama.folder / "other.mp4", 3)
    sama.out.mkdir()
    if link == "hard":
        os.link(sama.folder / "clip.mp4", sama.out / "a.mp4")
    else:
        (sama.out / "a.mp4").symlink_to(sama.folder / "clip.mp4")
    sama.manifest("video,prompt,output\nother.mp4,x,a.mp4\nclip.mp4,x,b.mp4\n")
    assert sama("--overwrite", "--dry-run", "--allow-outside") == 1
    assert "its output a.mp4 is the source of row 2" in sama.stderr
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\n")
    assert sama("--overwrite", "--allow-outside") == 2
    assert "is the source itself" in sama.stderr


def test_a_source_with_other_content_is_another(sama):
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\n")
    assert sama() == 0
    source = sama.record("a.mp4")["source"]
    state = (sama.folder / "clip.mp4").stat()
    assert (source["size"], source["mtime_ns"], len(source["sha256"])) == (state.st_size, state.st_mtime_ns, 64)
    os.utime(sama.folder / "clip.mp4", (1, 1))  # another time alone: its content decides
    assert sama() == 0
    assert "1 of 1 results exist already" in sama.stdout
    shutil.move(sama.folder / "clip.mp4", sama.folder / "moved.mp4")
    sama.manifest("video,prompt,output\nmoved.mp4,x,a.mp4\n")
    assert sama() == 0
    write_clip(sama.folder / "moved.mp4", 4)
    assert sama() == 2
    assert "was made with another source" in sama.stderr
    assert sama("--overwrite") == 0
    assert sama.record("a.mp4")["source"]["num_frames"] == 4


def test_records_of_earlier_versions_count_by_path(sama):
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\n")
    assert sama() == 0
    record = sama.record("a.mp4")
    for name in ("size", "mtime_ns", "sha256"):
        del record["source"][name]
    del record["result"], record["others"]
    sidecar_of(sama.out / "a.mp4").write_text(json.dumps(record))
    assert sama() == 0
    assert "1 of 1 results exist already" in sama.stdout
    assert "1 of them were made by an earlier version" in sama.stderr


def test_a_kill_between_the_renames_is_made_good(sama):
    """The record is in place, the comparison too, the result not; or the record is newer than the result."""
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\n")
    assert sama("--compare") == 0
    whole = (sama.out / "a.mp4").read_bytes()
    (sama.out / "a.mp4").unlink()
    assert sama("--compare") == 0, sama.stderr
    assert (sama.out / "a.mp4").read_bytes() == whole
    (sama.out / "a.mp4").write_bytes(whole + b"?")
    assert sama("--compare") == 2
    assert "not as its record says" in sama.stderr
    shutil.copy(sama.out / "a_compare.mp4", sama.out / "b_compare.mp4")  # the user's own
    sama.manifest("video,prompt,output\nclip.mp4,x,b.mp4\n")
    assert sama("--compare") == 2
    assert "b_compare.mp4 exists" in sama.stderr


def test_names_of_every_kind(sama):
    names = ["12:30 clip.mp4", "-x.mp4", "a\nb.mp4", "%03d.mp4", "n" * 246 + ".mp4"]
    rows = [{"video": str(sama.folder / "clip.mp4"), "prompt": "x", "output": name} for name in names]
    rows.append(rows[0] | {"output": "n" * 248 + ".mp4"})  # fits, but its record's name does not
    (sama.folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sama.monkeypatch.chdir(sama.folder)
    sama.out = sama.out.relative_to(sama.folder)
    assert sama(name="jobs.jsonl") == 1
    assert sorted(name for name in sama.written if name.endswith(".mp4")) == sorted(names)
    assert list(sama.failures) == [6]
    assert "2 bytes too long" in sama.failures[6]
    assert len(sama.stdout.splitlines()) == len(names)  # one line each, whatever is in a name


def test_ctrl_c_stops_the_batch_with_one_sentence(sama, monkeypatch):
    from sama_video.editing import editor

    def interrupted(pipe, frames, *rest, _real=editor.edit_frames):
        if sama.out.joinpath("a.mp4").exists():
            raise KeyboardInterrupt
        return _real(pipe, frames, *rest)

    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\nclip.mp4,x,sub/b.mp4\n")
    with monkeypatch.context() as patch:
        patch.setattr(editor, "edit_frames", interrupted)
        assert sama() == 130
    assert sama.stderr.splitlines()[-1] == "sama: stopped after 1 of 2 edits; the same command resumes"
    assert sama.written == ["a.mp4", "a.mp4.json"]
    assert sama() == 0
    assert "1 of 2 results exist already" in sama.stdout


def test_rows_are_read_without_a_model(sama):
    sama.manifest("video,prompt\nclip.mp4,x\ns3://films/a.mp4,y\n")
    rows = read_rows(sama.folder / "jobs.csv", sama.out, EditSettings())
    assert [job.output.name for job in rows.jobs] == ["0001_clip_edited.mp4"]
    assert list(rows.failures) == [2]
    assert "fetch it" in rows.failures[2]


def contents(folder):
    """All results; records without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            found[path.name] = {key: record[key] for key in ("prompt", "source", "settings", "result", "others")}
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edit", "batch"])
def test_ten_kills(kind, model, tmp_path):
    """SIGKILL at seeded moments, every other one of them in the writing: reruns make what an undisturbed run does, and
    nothing else is left."""
    write_clip(tmp_path / "clip.mp4", 40, sound=True)
    lines = [f"clip.mp4,make it {color},{color}.mp4" for color in ("red", "green", "blue", "gray")]
    (tmp_path / "jobs.csv").write_text("\n".join(["video,prompt,output", *lines]))
    options = ["--compare", "--model", model, "--num-inference-steps", "2"]

    def command(out):
        out.mkdir(exist_ok=True)
        if kind == "batch":
            return ["edit", "--manifest", tmp_path / "jobs.csv", "-o", out, *options]
        return ["edit", tmp_path / "clip.mp4", "make it red", "-o", out / "red.mp4", *options]

    run_sama(["--version"])  # until the server has imported everything
    started = time.monotonic()
    assert run_sama(command(tmp_path / "whole")) == 0
    seconds = time.monotonic() - started
    rng, kills, killed, left = random.Random(17), 0, tmp_path / "killed", 0

    def hidden():
        return {path.name for path in killed.iterdir() if path.name.startswith(".")}

    while kills < 10:
        arguments, before = command(killed), hidden()
        if kills % 2:
            code = run_sama(arguments, rng.uniform(0, 0.1), after=lambda before=before: bool(hidden() - before))
        else:
            code = run_sama(arguments, rng.uniform(0.1, 1.0) * seconds)
        if code != -signal.SIGKILL:
            shutil.rmtree(killed)  # it was through: from the beginning
            continue
        kills += 1
        left += bool(hidden())
    if kind == "batch" or not (killed / "red.mp4").exists():
        assert run_sama(command(killed)) == 0
    assert left, "no kill fell into the writing"
    assert contents(killed) == contents(tmp_path / "whole")
    assert not [path.name for path in killed.iterdir() if path.name.startswith(".")]


def test_a_record_from_before_there_was_a_setting_is_of_its_default(sama):
    sama.manifest("video,prompt,output\nclip.mp4,x,a.mp4\n")
    assert sama() == 0
    record = sama.out / "a.mp4.json"
    older = json.loads(record.read_text())
    del older["settings"]["source_refresh"]
    record.write_text(json.dumps(older))
    written = (sama.out / "a.mp4").stat().st_mtime_ns
    assert sama() == 0
    assert (sama.out / "a.mp4").stat().st_mtime_ns == written
    assert sama("--source-refresh", "2") == 2
    assert "source_refresh" in sama.stderr or "--source-refresh" in sama.stderr
