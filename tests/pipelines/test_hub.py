"""`sama push`, hub ids with revisions, and folders that load without this package. The hub is a stand-in."""

import json
import os
import shutil
import subprocess
import sys

import diffusers
import numpy
import pytest
import torch
from diffusers import DiffusionPipeline

from sama_video import SamaPipeline, load_pipeline
from sama_video.models.hub import is_hub_id, split_hub_id
from sama_video.pipelines.publishing import prepare
from sama_video.pipelines.selection import Loading, find_model
from sama_video.system.errors import UserError

from ..clips import write_clip
from ..hub_server import TOKEN, running_hub
from ..tiny import pipeline

# Without `site`, what is installed as editable is not found: this package is then absent, and all others are there.
ALONE = """
import importlib.util, sys
sys.path += {packages}
assert importlib.util.find_spec("sama_video") is None
import numpy, torch
from diffusers import DiffusionPipeline
"""
EDIT = """
video = numpy.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=numpy.uint8)
frames = pipe(video=video, prompt="p", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).frames
numpy.save({out!r}, frames)
"""


def run_alone(lines, folder, environment=None):
    """Python without this package, with diffusers' cache of modules in a folder of its own."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    settings = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), **(environment or {})}
    settings.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, "-S", "-c", ALONE.format(packages=packages) + lines],
        capture_output=True, text=True, timeout=600, cwd=folder, env=settings,
    )  # fmt: skip


def run_sama(arguments, folder, environment):
    settings = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "sama_video.cli", *arguments],
        capture_output=True, text=True, timeout=600, cwd=folder, env=settings,
    )  # fmt: skip


def edited(pipe):
    video = numpy.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=numpy.uint8)
    return pipe(video=video, prompt="p", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).frames


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    pipeline().save_pretrained(folder)
    return folder


def test_a_saved_folder_brings_its_code(saved):
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "SamaPipeline"]
    assert index["transformer"] == ["sama", "SamaTransformer3DModel"]
    assert "_name_or_path" not in index
    code = (saved / "pipeline.py").read_text()
    assert (saved / "transformer" / "sama.py").read_text() == code
    assert "\n#@ models/transformer_sama.py\n" in code
    assert "\n#@ models/presets.yaml\n" in code
    assert "#@ training/" not in code
    assert "#@ editing/" not in code


def test_this_package_runs_no_code_of_a_folder(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    for file in folder.rglob("*.py"):
        file.write_text("raise SystemExit('run')")
    assert type(load_pipeline(str(folder))) is SamaPipeline
    assert type(SamaPipeline.from_pretrained(folder)) is SamaPipeline
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


def test_an_older_folder_loads_by_its_name(saved, tmp_path):
    """Its `model_index.json` names this package's classes, and it brings no code."""
    folder = shutil.copytree(saved, tmp_path / "model", ignore=shutil.ignore_patterns("*.py"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "SamaPipeline"}
    index["transformer"] = ["sama_video.models.transformer_sama", "SamaTransformer3DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert type(DiffusionPipeline.from_pretrained(folder)) is SamaPipeline
    assert type(load_pipeline(str(folder))) is SamaPipeline
    assert find_model(folder).index == find_model(saved).index


def test_code_does_not_count_as_configuration(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    before = find_model(folder).configuration_identity
    (folder / "pipeline.py").write_text("# of a later version")
    assert find_model(folder).configuration_identity == before


@pytest.mark.slow
def test_a_folder_loads_without_this_package(saved, tmp_path):
    """The same frames as with it; by `custom_pipeline` too; and what it saves loads again."""
    again = tmp_path / "again"
    lines = f"""
pipe = DiffusionPipeline.from_pretrained({str(saved)!r}, trust_remote_code=True)
for place in ({str(saved)!r}, {str(saved / "pipeline.py")!r}):
    named = DiffusionPipeline.from_pretrained({str(saved)!r}, custom_pipeline=place, trust_remote_code=True)
    assert type(named) is type(pipe) and type(named.transformer) is type(pipe.transformer)
pipe.save_pretrained({str(again)!r})
pipe = DiffusionPipeline.from_pretrained({str(again)!r}, trust_remote_code=True)
{EDIT.format(out=str(tmp_path / "frames.npy"))}
assert "sama_video" not in sys.modules
"""
    done = run_alone(lines, tmp_path)
    assert done.returncode == 0, done.stderr
    assert numpy.array_equal(numpy.load(tmp_path / "frames.npy"), edited(SamaPipeline.from_pretrained(saved)))
    assert (again / "pipeline.py").read_text() == (saved / "pipeline.py").read_text()


@pytest.mark.slow
def test_pushed_and_loaded_by_revision(saved, tmp_path):
    """`sama push` to a branch; then `sama info`-like loads of it, by this package and by diffusers alone."""
    with running_hub() as hub:
        environment = hub.environment(tmp_path)
        done = run_sama(["push", str(saved), "me/tiny", "--private"], tmp_path, environment)
        assert done.returncode == 0, done.stderr
        assert f"{hub.address}/me/tiny/commit/" in done.stdout
        done = run_sama(["push", "nano", "me/tiny@nano", "--license", "mit"], tmp_path, environment)
        assert done.returncode == 0, done.stderr

        assert hub.private == {"me/tiny"}
        main, branch = hub.files("me/tiny"), hub.files("me/tiny", "nano")
        name = "transformer/diffusion_pytorch_model.safetensors"
        assert main[name] == (saved / name).read_bytes()
        assert branch[name] == (find_model("nano").folder / name).read_bytes()
        assert main["pipeline.py"] == (saved / "pipeline.py").read_bytes() == branch["vae/sama.py"]
        card = branch["README.md"].decode()
        assert "license: mit" in card
        assert "pipeline_tag: video-to-video" in card
        assert "# SAMA-Nano" in card
        assert 'from_pretrained("me/tiny", trust_remote_code=True)' in main["README.md"].decode()

        # With this package, by its command: the branch is the nano, so the bytes are those of the nano's edit.
        clip = write_clip(tmp_path / "clip.mp4", 5)
        for model, out in (("me/tiny@nano", "hub.mp4"), ("nano", "nano.mp4")):
            arguments = ["edit", str(clip), "Make it sepia", "--model", model, "-o", out]
            done = run_sama(arguments, tmp_path, environment)
            assert done.returncode == 0, done.stderr
        first, second = (json.loads((tmp_path / f"{name}.mp4.json").read_text()) for name in ("hub", "nano"))
        commit = hub.commit_of("me/tiny", "nano")
        assert first["model"]["weights"] == f"me/tiny@{commit}"
        assert first["model"]["name"] == "me/tiny@nano"
        assert second["model"]["name"] == "nano"
        done = run_sama(["edit", str(clip), "x", "--model", "me/tiny@gone", "-o", "x.mp4"], tmp_path, environment)
        assert done.returncode == 2
        assert "me/tiny@gone" in done.stderr
        assert "Traceback" not in done.stderr

        # Without it, by diffusers.
        lines = f"""
revision = {hub.commit_of("me/tiny", "main")!r}
pipe = DiffusionPipeline.from_pretrained("me/tiny", revision=revision, trust_remote_code=True)
{EDIT.format(out=str(tmp_path / "frames.npy"))}
"""
        done = run_alone(lines, tmp_path, environment)
        assert done.returncode == 0, done.stderr
    assert numpy.array_equal(numpy.load(tmp_path / "frames.npy"), edited(SamaPipeline.from_pretrained(saved)))


@pytest.mark.slow
def test_a_hub_that_refuses(saved, tmp_path):
    with running_hub() as hub:
        for token, words in ((None, "hf auth login"), ("hf_wrong", "hf auth login")):
            done = run_sama(["push", str(saved), "me/tiny"], tmp_path, hub.environment(tmp_path, token))
            assert done.returncode == 2
            assert words in done.stderr
            assert "Traceback" not in done.stderr
        assert not hub.repositories
        address = hub.environment(tmp_path)
    done = run_sama(["push", str(saved), "me/tiny"], tmp_path, address)
    assert done.returncode == 2
    assert "cannot reach the hub" in done.stderr
    assert TOKEN not in done.stderr


def test_what_would_go(saved):
    publication = prepare(find_model(saved), "me/tiny@v1", license="apache-2.0")
    assert (publication.repository, publication.revision) == ("me/tiny", "v1")
    assert set(publication.files) >= {"README.md", "pipeline.py", "transformer/config.json", "model_index.json"}
    card = publication.files["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "--model me/tiny" in card


def test_what_is_not_whole_does_not_go(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        prepare(find_model(folder), "me/tiny")
    with pytest.raises(UserError, match="no hub id"):
        prepare(find_model(saved), "tiny")
    with pytest.raises(UserError, match="is on the hub"):
        prepare(find_model("me/tiny"), "me/other")


def test_hub_ids():
    assert split_hub_id("owner/na.me-1") == ("owner/na.me-1", None)
    assert split_hub_id("owner/name@refs/pr/1") == ("owner/name", "refs/pr/1")
    for name in ("name", "a/b/c", "../x", "./x/y", "/x/y", "~/x", "owner/name@", "owner/name@a b", "owner/name@a@b"):
        assert not is_hub_id(name), name
    assert diffusers.SamaPipeline is SamaPipeline


def test_lora_from_the_hub_or_a_missing_file():
    with pytest.raises(UserError, match=r"no such LoRA: loras/look\.safetensors"):
        Loading(model=find_model("nano"), lora=["loras/look.safetensors"])
    assert Loading(model=find_model("nano"), lora=["me/look@v1:0.5"]).loras == [("me/look@v1", 0.5)]
