"""The command as a user runs it: a process of its own, judged by its output, files and exit code."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sama_video
from sama_video.cli.app import main, normalise_arguments
from sama_video.editing import sidecar_of
from sama_video.models.presets import ASSETS
from sama_video.synth.engine import Engine
from sama_video.synth.sprites import NANO_VOCABULARY
from sama_video.system.errors import UserError
from sama_video.training.overrides import find_stages
from sama_video.video import VideoReader
from tests import tiny
from tests.clips import write_clip
from tests.commands import sama

QUICK = ("--num-inference-steps", "1", "--num-frames", "2")


def refused(result, *words):
    """Exit code 2, one line, the words in it, no traceback; that a model is loading, and notes, may come before."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith(("loading ", "note: "))]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    return True


@pytest.fixture
def refused_here(monkeypatch, capsys):
    """As `refused`, without the seconds that a process of its own takes to begin."""

    def check(arguments, words):
        monkeypatch.setattr(sys, "argv", ["sama", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGTERM, before)
        return refused(subprocess.CompletedProcess(arguments, ended.value.code, stderr=capsys.readouterr().err), *words)

    return check


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", 5)


def test_edit_writes_beside_the_source_and_never_overwrites(clip):
    result = sama("edit", clip, "make it black and white", *QUICK, "--compare")
    assert result.returncode == 0, result.stderr
    output = clip.with_name("clip_edited.mp4")
    assert str(output) in result.stdout
    assert VideoReader(output).info.num_frames == 2
    assert VideoReader(clip.with_name("clip_edited_compare.mp4")).info.width == 256
    sidecar = json.loads(sidecar_of(output).read_text())
    assert sidecar["model"]["weights"].startswith("sha256:")
    before = output.read_bytes()
    assert refused(sama("edit", clip, "make it sepia", *QUICK), "exists; pass --overwrite")
    assert output.read_bytes() == before
    assert sama("edit", clip, "make it negative", *QUICK, "--overwrite").returncode == 0
    assert output.read_bytes() != before


def test_other_editors_names(clip):
    output = clip.with_name("out.mp4")
    result = sama(
        "edit", "--src_video", clip, "--instruction", "make it sepia", "--save_file", output,
        "--sample_steps", "1", "--max_frames=2", "--size", "64*48", "--base_seed", "3", "--cfg_scale", "1.5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    sidecar = json.loads(sidecar_of(output).read_text())
    assert sidecar["model_size"] == {"height": 48, "width": 64}
    assert sidecar["settings"]["seed"] == 3
    assert sidecar["settings"]["guidance_scale"] == 1.5
    with pytest.raises(UserError, match="WIDTHxHEIGHT"):
        normalise_arguments(["--size", "big"])
    assert normalise_arguments(["a", "--x_y=1_2", "--", "--z_z"]) == ["a", "--x-y=1_2", "--", "--z_z"]


def test_dry_run_writes_nothing(clip):
    result = sama("edit", clip, "make it sepia", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "128x96" in result.stdout
    assert "model at" in result.stdout
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_a_batch_goes_on_where_it_stopped(clip, tmp_path, refused_here):
    manifest = tmp_path / "jobs.csv"
    manifest.write_text("src_video,prompt,output\nclip.mp4,make it sepia,a.mp4\nclip.mp4,make it green,b.mp4\n")
    out = tmp_path / "out"
    assert sama("edit", "--manifest", manifest, "-o", out, *QUICK).returncode == 0
    first = (out / "a.mp4").read_bytes()
    (out / "b.mp4").unlink()
    result = sama("edit", "--manifest", manifest, "-o", out, *QUICK)
    assert "1 of 2 results exist already" in result.stdout
    assert (out / "a.mp4").read_bytes() == first
    assert (out / "b.mp4").exists()
    again = ("edit", "--manifest", manifest, "-o", out, *QUICK)
    assert refused_here((*again, "--seed", 1), ("a.mp4", "another --seed"))
    manifest.write_text("src_video,prompt,output\nclip.mp4,make it cold,a.mp4\n")
    assert refused_here(again, ("another prompt",))
    sidecar_of(out / "a.mp4").unlink()
    assert refused_here(again, ("without the record of an edit",))
    assert (out / "a.mp4").read_bytes() == first
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"film": str(clip), "instruction": "make it cold"}) + "\n")
    assert sama("edit", "--manifest", jobs, "--column-map", "src_video=film", "-o", out, *QUICK).returncode == 0
    assert (out / "0001_clip_edited.mp4").exists()


def test_bad_input(clip, tmp_path, monkeypatch, refused_here):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "half").mkdir()
    index = json.loads((ASSETS / "nano" / "model_index.json").read_text())
    (tmp_path / "half" / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(ASSETS / "nano", tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "transformer" / "diffusion_pytorch_model.safetensors", 1_000_000)
    (tmp_path / "gap.csv").write_text("video,prompt\nclip.mp4,\n")
    (tmp_path / "url.jsonl").write_text(json.dumps({"video": "s3://films/a.mp4", "prompt": "x"}))
    (tmp_path / "odd.csv").write_text("film,prompt\nclip.mp4,x\n")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    (tmp_path / "twice.csv").write_text("video,prompt,output\nclip.mp4,x,a.mp4\nclip.mp4,y,a.mp4\n")
    (tmp_path / "taken_compare.mp4").write_text("the user's own")
    (tmp_path / "some.lora").touch()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    cases = [
        (("edit", tmp_path / "none.mp4", "x"), ("no such video", "check the path")),
        (("edit", tmp_path / "text.mp4", "x"), ("not a video", "Invalid data")),
        (("edit", ".", "x"), ("is a folder",)),
        (("edit", clip, "x", "--prompt", "y"), ("PROMPT and --prompt",)),
        (("edit", clip, "x", "--video", clip), ("VIDEO and --video",)),
        (("edit", clip, "x", "--manifest", tmp_path / "gap.csv"), ("VIDEO and --manifest",)),
        (
            ("edit", "--manifest", tmp_path / "twice.csv", "-o", tmp_path / "new"),
            ("row 1: it and row 2 would both write a.mp4",),
        ),
        (("edit", clip, "x", "-o", tmp_path / "taken.mp4", "--compare"), ("taken_compare.mp4 exists",)),
        (("edit", clip, "x", "-o", tmp_path / "out.avi", "--dry-run"), ("cannot write .avi",)),
        (("edit", clip, "x", "--start", 99, "--dry-run"), ("shows nothing at 99 s",)),
        (("edit", clip, "x", "--device", "mps"), ("no MPS device",)),
        (("edit", clip, "x", "--device", "cuda:x"), ("unknown device",)),
        (("edit", clip, "x", "--lora", f"{tmp_path / 'some.lora'}:nan"), ("finite number",)),
        (("edit", clip, "x", "--model", "weights/sama-typo"), ("no folder weights/sama-typo", "hub id")),
        (("edit", clip, " "), ("instruction is empty",)),
        (("edit", clip), ("give a video and an instruction",)),
        (("edit", clip, "x", "--model", "huge"), ("unknown model 'huge'", "nano")),
        (("edit", clip, "x", "--model", "wan2.1-14b"), ("weights do not ship", "sama convert")),
        (("edit", clip, "x", "--model", tmp_path / "half"), ("lacks the folder", "fetch it again")),
        (
            ("edit", clip, "x", "--model", tmp_path / "cut"),
            ("model.safetensors is damaged or cut off", "download"),
        ),
        (("edit", clip, "x", "--model", tmp_path), ("no model_index.json",)),
        (("edit", clip, "x", "-o", tmp_path / "no" / "out.mp4"), ("does not exist",)),
        (("edit", clip, "x", "-o", tmp_path / "out.txt"), ("cannot write .txt",)),
        (("edit", clip, "x", "--height", 100, "--width", 100), ("use --height 96 --width 96",)),
        (("edit", clip, "x", "--num-frames", 0), ("--num-frames must be at least 1",)),
        (("edit", clip, "x", "--fit", "stretch"), ("--fit must be one of",)),
        (("edit", clip, "x", "--device", "cuda"), ("no CUDA device",)),
        (("edit", clip, "x", "--lora", "none.safetensors"), ("no such LoRA",)),
        (("edit", "--manifest", tmp_path / "none.csv"), ("cannot read the manifest",)),
        (
            ("edit", "--manifest", tmp_path / "gap.csv"),
            ("no row of gap.csv", "row 1: it lacks its video or its prompt"),
        ),
        (("edit", "--manifest", tmp_path / "url.jsonl"), ("fetch it and name the local file",)),
        (("edit", "--manifest", tmp_path / "odd.csv"), ("no src_video", "--column-map src_video=COLUMN")),
        (("info", "--model", "huge"), ("unknown model",)),
        (("info", "--num-frames", 48), ("use 45 or 49",)),
        (("convert", tmp_path / "none", tmp_path / "out"), ("no such file or folder",)),
        (("info", "--num-frames", 0), ("got 0; use 1",)),
        (("info", "--height", 90, "--width", 90), ("multiples of 16", "use 96x96")),
        (("info", "--height", -32, "--width", 0), ("multiples of 16", "use 16x16")),
        (("convert", clip, tmp_path / "out"), ("damaged or not a weights file",)),
        (("convert", tmp_path / "text.safetensors", tmp_path / "out"), ("damaged or not a weights file",)),
        (("demo", "--out", clip), ("cannot make the folder",)),
        (("data", "synth", "--out", clip), ("cannot make the folder",)),
    ]
    for arguments, words in cases:
        assert refused_here(arguments, words), arguments
    assert refused(sama(*cases[0][0]), *cases[0][1])
    if os.geteuid() != 0:  # root may write anywhere
        assert refused(sama("edit", clip, "x", "-o", locked / "out.mp4", *QUICK), "read-only")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_usage_errors_have_exit_code_2(clip):
    result = sama("edit", clip, "x", "--no-such-option")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_info():
    result = sama("info", "--model", "wan2.1-14b", "--height", "480", "--width", "832")
    assert result.returncode == 0, result.stderr
    assert "14,300,847,552 parameters" in result.stdout
    assert "tokens       65,585 = source 32,760 + semantic 65 + target 32,760" in result.stdout


def test_info_says_what_a_model_was_taught(tmp_path):
    taught = Engine(vocabulary=NANO_VOCABULARY).taught()
    tiny.pipeline(trained_for=taught).save_pretrained(tmp_path / "model")
    said = sama("info", "--model", tmp_path / "model").stdout
    assert "taught to    add a thing, remove things, replace things, change a thing" in said
    assert "things       " in said
    assert "soccer ball" in said
    shipped = sama("info").stdout
    assert "taught to    add a thing, remove things, " in shipped
    assert "snowman, pumpkin, house" in shipped


def test_help_and_version_stay_light():
    heavy = ("torch", "diffusers", "transformers", "av", "numpy")
    code = f"import sys; import sama_video, sama_video.cli.app; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    result = sama("--help")
    assert result.returncode == 0
    for command in ("edit", "convert", "info", "demo"):
        assert command in result.stdout
    assert sama("--version").stdout.strip() == sama_video.__version__
    assert "--guidance-scale: also --cfg-scale" in sama("edit", "--help").stdout


ANSWERS = """if True:
    import contextlib, io, json, sys
    from sama_video.cli.app import main

    for case in json.loads(sys.argv[1]):
        sys.argv = ["sama", *case]
        said = io.StringIO()
        code = 0
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                main()
            except SystemExit as ended:
                code = ended.code
        heavy = [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
        print(json.dumps([case, code, heavy, said.getvalue()]))
"""


def test_answers_that_need_no_model_load_none(clip, tmp_path):
    """In one process of its own: what an earlier answer imported would show in the later ones too."""
    write_clip(tmp_path / "taken.mp4", 2)
    (tmp_path / "odd.csv").write_text("film,prompt\nclip.mp4,x\n")
    (tmp_path / "bad.csv").write_text("video,prompt,seed\nclip.mp4,x,many\nnone.mp4,x,1\n")
    (tmp_path / "jobs.csv").write_text("video,prompt\nclip.mp4,x\n")
    edit = ["edit", clip, "x"]
    cases = [
        ([*edit, "--dry-run"], 0, "model at"),
        (["edit", "--manifest", tmp_path / "jobs.csv", "-o", tmp_path / "new", "--dry-run"], 0, "model at"),
        (["edit", tmp_path / "none.mp4", "x"], 2, "no such video"),
        ([*edit, "-o", tmp_path / "x.avi"], 2, "cannot write .avi"),
        ([*edit, "-o", tmp_path / "taken.mp4"], 2, "exists"),
        ([*edit, "-o", tmp_path / "no" / "x.mp4"], 2, "does not exist"),
        ([*edit, "--num-frames", "0"], 2, "--num-frames must be at least 1"),
        ([*edit, "--fit", "stretch"], 2, "--fit must be one of"),
        ([*edit, "--dtype", "int8"], 2, "--dtype must be one of"),
        ([*edit, "--device", "banana"], 2, "unknown device"),
        ([*edit, "--offload", "model", "--device", "cpu"], 2, "--offload model moves"),
        ([*edit, "--model", "huge"], 2, "unknown model"),
        ([*edit, "--model", tmp_path], 2, "no model_index.json"),
        ([*edit, "--lora", "none.safetensors"], 2, "no such LoRA"),
        ([*edit, "--height", "100", "--width", "100"], 2, "use --height 96 --width 96"),
        (["edit", clip, " "], 2, "instruction is empty"),
        (["edit", "--manifest", tmp_path / "none.csv"], 2, "cannot read the manifest"),
        (["edit", "--manifest", tmp_path / "odd.csv"], 2, "--column-map src_video=COLUMN"),
        (["edit", "--manifest", tmp_path / "bad.csv"], 2, "seed must be a whole number"),
        (["train", "no-such", "--dry-run"], 2, "unknown recipe"),
        (["eval", "judge", tmp_path / "none"], 2, "holds no run"),
        (["eval", "exact", tmp_path / "none.csv"], 2, "cannot read the manifest"),
        (["eval", "predict", "no-such", "--out", tmp_path / "run"], 2, "unknown benchmark"),
        (["data", "check", tmp_path / "none.csv"], 2, "cannot read the manifest"),
        (["data", "cache", "no-such"], 2, "unknown recipe"),
        (["convert", tmp_path / "none", tmp_path / "out"], 2, "no such file or folder"),
    ]
    arguments = json.dumps([[str(part) for part in case] for case, _, _ in cases])
    out = subprocess.run([sys.executable, "-c", ANSWERS, arguments], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) == len(cases)
    for line, (_, code, words) in zip(out.splitlines(), cases, strict=True):
        case, ended, heavy, said = json.loads(line)
        assert (ended, heavy) == (code, []), (case, said)
        assert words in said, (case, said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_nothing_half_written(number, code, tmp_path):
    """In a process of its own: an output is open when the signal arrives."""
    script = """if True:
        import pathlib, sys, time
        from sama_video.cli import edit, app
        from sama_video.system.files import written_aside

        def work(*_):
            with written_aside(pathlib.Path(sys.argv[-1])) as aside:
                aside.write_text("half")
                print("ready", flush=True)
                time.sleep(600)

        edit._load = work
        app.main()
    """
    clip, out = write_clip(tmp_path / "clip.mp4", 2), tmp_path / "out.mp4"
    arguments = [sys.executable, "-c", script, "edit", clip, "make it sepia", "-o", out]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(timeout=600) == code
        assert process.stderr.read() == "sama: stopped; nothing was written\n"
    assert list(tmp_path.iterdir()) == [clip]


@pytest.fixture
def ended_with(monkeypatch, capsys):
    """The command with an edit that raises: its exit code and what it says."""

    def run(error, *options):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("sama_video.cli.edit._check_given_once", fail)
        monkeypatch.setattr(sys, "argv", ["sama", "edit", "clip.mp4", "x", *options])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGTERM, before)
        return ended.value.code, capsys.readouterr().err

    monkeypatch.setenv("SAMA_DEBUG", "0")
    return run


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TypeError("of all\nthings"), 1, "sama: unexpected error: TypeError: of all; this is a fault in the program"),
        (KeyError("x"), 1, "KeyError: 'x'"),
        (AssertionError(), 1, "unexpected error: AssertionError; this"),
        (EOFError(), 1, "unexpected error: EOFError"),
        (OSError(28, "No space left on device"), 2, "the disk is full"),
        (PermissionError(13, "Permission denied", "a.mp4"), 2, "Permission denied: a.mp4; check the path"),
        (FileNotFoundError(2, "No such file or directory", b"caf\xe9.mp4"), 2, "caf\\udce9.mp4"),
        (BrokenPipeError(32, "Broken pipe"), 1, "unexpected error: BrokenPipeError"),  # of a socket, not of ours
        (ConnectionResetError(104, "Connection reset"), 1, "unexpected error: ConnectionResetError"),
        (MemoryError(), 1, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "out of memory"),
        (UserError("`num_frames` is odd: '`'"), 2, "sama: --num-frames is odd: '`'"),
        (UserError("two\nlines"), 2, "sama: two\\nlines"),
        (KeyboardInterrupt(), 130, "sama: stopped"),
    ],
)
def test_every_error_is_one_sentence(error, code, words, ended_with):
    ended, said = ended_with(error)
    assert ended == code
    assert words in said
    assert len(said.splitlines()) == 1


def test_debug_shows_the_trace(ended_with, monkeypatch):
    error = UserError("bad")
    error.__cause__ = ZeroDivisionError("the cause")
    code, said = ended_with(error, "--debug")
    assert code == 2
    assert "ZeroDivisionError: the cause" in said
    assert "Traceback" in said
    assert said.splitlines()[-1] == "sama: bad"
    monkeypatch.setenv("SAMA_DEBUG", "1")
    assert "Traceback" in ended_with(TypeError("x"))[1]


def test_a_reader_that_has_enough_ends_the_command_in_silence():
    command = [sys.executable, "-m", "sama_video.cli", "info"]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_message_about_a_setting_is_made_once():
    """A UserError is a ValueError, and what turns these into sentences leaves those alone."""
    for setting in ("data.pretext_variants=many", "data.aspect_ratios=1,wide", "loop.num_steps=few"):
        with pytest.raises(UserError) as said:
            find_stages("smoke", [setting])
        assert str(said.value).count("--set") == 1, said.value


def test_messages_of_the_library_name_settings_as_python_does():
    """`num_frames`, which the command shows as --num-frames; whole commands and --set are quoted as they are typed."""
    root = Path(sama_video.__file__).parent
    told = []
    for path in sorted(root.rglob("*.py")):
        source = path.read_text()
        if "cli" in path.relative_to(root).parts or "argparse" in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Raise):
                texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                message = " ".join(text for text in texts if isinstance(text, str))
                options = re.findall(r"(?<![\w-])--[a-z][a-z-]+", message)
                if "sama " not in message and set(options) - {"--set", "--nproc-per-node"}:
                    told.append((path.name, message))
    assert told == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names to be text")
def test_names_that_are_no_text(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    odd = clip.rename(tmp_path / os.fsdecode(b"caf\xe9 12:30.mp4"))
    result = sama("edit", odd.name, "make it sepia", *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "caf\\udce9 12:30_edited.mp4" in result.stdout
    written = sorted(os.fsencode(path.name) for path in tmp_path.iterdir())
    assert written == [b"caf\xe9 12:30.mp4", b"caf\xe9 12:30_edited.mp4", b"caf\xe9 12:30_edited.mp4.json"]


def test_a_dry_run_needs_no_weights(clip, tmp_path):
    shutil.copytree(ASSETS / "nano", tmp_path / "light", ignore=shutil.ignore_patterns("*.safetensors"))
    result = sama("edit", clip, "make it sepia", "--dry-run", "--model", tmp_path / "light")
    assert result.returncode == 0, result.stderr
    assert "windows of 17" in result.stdout


def test_what_the_model_cannot_do_is_said_before_it_runs(clip):
    manifest = clip.parent / "jobs.csv"
    manifest.write_text("video,prompt\nclip.mp4,remove the cup\nclip.mp4,make it sepia\n")
    alone = sama("edit", clip, "remove the cup", "--dry-run")
    assert alone.returncode == 0
    assert alone.stderr.startswith('note: "remove the cup" is outside of what this model was taught: ')
    rows = sama("edit", "--manifest", manifest, "-o", clip.parent / "out", "--dry-run")
    assert rows.stderr.startswith('note: row 1: "remove the cup" is outside')
    assert "sepia" not in rows.stderr.partition(")")[2]
    assert sama("edit", clip, "make it sepia", "--dry-run").stderr == ""


@pytest.mark.slow
def test_libraries_that_come_along_say_nothing(tmp_path):
    """A process of its own, since peft imports what is installed once; tests install all of it."""
    write_clip(tmp_path / "clip.mp4", 5)
    command = [sys.executable, "-m", "sama_video.cli", "edit", "clip.mp4", "Make it sepia", "-o", "out.mp4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0
    assert "kernels" not in done.stderr
