"""Every command and Python block of README and docs runs as written, in the slow set.

Commands on weights that cannot ship run on tiny stand-ins of the same formats, made here. What is appended makes edits
and training short: one sampling step at a small working size, two steps of training.
"""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel
from typer.main import get_command

from sama_video.cli.app import app, normalise_arguments
from sama_video.cli.train import RECIPE
from sama_video.data.catalogue import catalogue_table
from sama_video.models.convert_checkpoint import official_text_encoder_state, official_transformer_state
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.nano.parts import train_tokenizer
from tests import golden, tiny
from tests.clips import write_clip
from tests.commands import TORCHRUN, python, sama
from tests.evaluation.copies import write_copy
from tests.service.test_serving import serving

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_INS = ("sama-14b",)


def blocks(language):
    for document in DOCUMENTS:
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)):
            yield pytest.param(block, id=f"{document.stem}-{number}")


def commands(block):
    return [shlex.split(line, comments=True) for line in block.strip().splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    write_clip(folder / "clip.mp4", 24, sound=True)
    (folder / "jobs.csv").write_text("video,prompt\nclip.mp4,make it green\n")
    (folder / "pairs.csv").write_text("src_video,tgt_video,prompt\nclip.mp4,clip.mp4,make it green\n")
    (folder / "other.csv").write_text("before,after,prompt\nclip.mp4,clip.mp4,make it green\n")
    (run,) = re.findall(r"```yaml\n(name: .*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    (folder / "run.yaml").write_text(run)
    write_copy("reco_bench", folder / "ReCo-Bench")
    tiny.pipeline().save_pretrained(folder / "tiny")
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    transformer = SamaTransformer3DModel(
        num_attention_heads=1,
        num_layers=1,
        ffn_dim=64,
        text_dim=64,
        freq_dim=32,
        semantic_dim=24,
        semantic_hidden_dim=16,
    )
    state = official_transformer_state(transformer)
    save_file(state, folder / "weights" / "sama.safetensors")
    tokenizer = train_tokenizer(num_samples=100, vocab_size=300)
    tokenizer.save_pretrained(folder / "weights" / "umt5-xxl")
    config = UMT5Config(vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    text_state = official_text_encoder_state(UMT5EncoderModel(config))
    torch.save(text_state, folder / "weights" / "models_t5_umt5-xxl-enc-bf16.pth")
    vae_state = load_file(golden.FOLDER / "vae_dim8_weights.safetensors")
    torch.save(vae_state, folder / "weights" / "Wan2.1_VAE.pth")
    wan = folder / "Wan2.1-T2V-14B"
    wan.mkdir()
    plain = {k: v for k, v in state.items() if not k.startswith(("segment", "siglip", "semantic"))}
    save_file(plain, wan / "diffusion_pytorch_model.safetensors")
    torch.save(vae_state, wan / "Wan2.1_VAE.pth")
    lora = {
        f"blocks.0.self_attn.q.lora_{x}.default.weight": torch.randn(s) for x, s in (("A", (2, 128)), ("B", (128, 2)))
    }
    save_file(lora, folder / "lora.safetensors")
    return folder


@pytest.fixture
def place(workplace, request):
    """A folder for every document: whoever reads one runs it from the top, and has not run the others."""
    document = request.node.callspec.id.rpartition("-")[0]
    folder = workplace.with_name(f"{workplace.name}-{document}")
    if not folder.exists():
        shutil.copytree(workplace, folder)
    return folder


SHORT = {"loop.num_steps": 2, "data.validation.families": "global_style"}
SHORT_ABLATION = {
    "loop.num_steps": 1,
    "data.image_batch_size": 2,
    "data.video_batch_size": 1,
    "data.num_workers": 0,
    "data.datasets.0.engine.shapes": "1x64x64",
    "data.datasets.1.engine.shapes": "9x64x64",
    "data.area": 64 * 64,
}
# The README's runs train the shipped model.
TINY = {"model.init": "tiny", "model.semantic_encoder": "none", "model.train_text_encoder": "false"}


def settings(values):
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def shortened(arguments):
    """What is appended, so that a command takes seconds."""
    if arguments[0] == "edit":
        has_own_size = "--dry-run" in arguments
        small = ["--max-pixels", "4096"] if any(name in arguments for name in STAND_INS) and not has_own_size else []
        return ["--num-inference-steps", "1", *small]
    if arguments[:2] == ["train", "smoke"]:
        return settings(SHORT | (TINY if "--resume" in arguments else {}))
    if arguments[0] == "train" and arguments[1].startswith("ablation-") and "--out" in arguments:
        return ["--seeds", "1", "--items", "1", *settings(SHORT_ABLATION)]
    if arguments[:2] == ["data", "synth"]:
        return ["--count", "8", "--workers", "1"]  # each would import everything
    if arguments[:2] == ["eval", "exact"]:
        return ["--workers", "1"]
    if arguments[:3] == ["data", "cache", "lora-finetuning"]:
        return settings({"data.area": 4096, "model.semantic_encoder": "nano"})
    return []


def run_curl(block, folder):
    """Requests to a service, with the id that the first one gave in the place of ID."""
    with serving(folder / "jobs", "tiny", cwd=folder) as (client, _):
        job_id = ""
        for command in commands(block):
            address = str(client._http.base_url).removeprefix("http://").rstrip("/")
            asked = [part.replace("localhost:8000", address).replace("ID", job_id) for part in command]
            answer = subprocess.run(
                [*asked, "--fail", "--silent"], cwd=folder, check=True, capture_output=True, text=True
            )
            job_id = job_id or json.loads(answer.stdout)["id"]
        assert client.job(job_id)["state"] == "done"
    assert (folder / "clip_edited.mp4").exists()


def run(command, folder):
    if command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if "pip" in command:
        named = re.search(r"\[(.*)\]", command[-1])
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(named[1].split(",") if named else ()) <= extras.keys()
        return
    if command[0] in ("docker", "python3", "source"):  # tests/test_dockerfile.py has what an image is made of
        return
    if command[:2] in (["sama", "serve"], ["sama", "studio"]):
        with serving(folder / "unused", "tiny", cwd=folder):
            return
    if command[0] == "torchrun":
        spread = subprocess.run([*TORCHRUN, *command[1:], "--num-inference-steps", "1"], cwd=folder, check=False)
        assert spread.returncode == 0, shlex.join(command)
        return
    assert command[0] == "sama", command
    result = sama(*command[1:], *shortened(command[1:]), cwd=folder)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("bash"))
def test_commands(block, place):
    if block.startswith("curl "):
        run_curl(block, place)
        return
    for command in commands(block):
        needed = (command[1] == "edit" and "sama-14b" in command) or command[1:4] == [
            "data",
            "cache",
            "lora-finetuning",
        ]
        if needed and not (place / "sama-14b").exists():
            run(commands((ROOT / "docs" / "weights.md").read_text().split("```bash")[1].split("```")[0])[0], place)
        run(command, place)


def test_commands_are_ones_that_there_are():
    """Names of commands and options, without running anything: what a rename forgot is seen at once."""
    every = [command for block in blocks("bash") for command in commands(block.values[0]) if command[0] == "sama"]
    assert len(every) > 50
    for command in every:
        found, rest = get_command(app), normalise_arguments(command[1:])
        while getattr(found, "commands", None) and rest:
            name = rest[0] if rest[0] in found.commands else RECIPE
            found, rest = found.commands[name], rest[name != RECIPE :]
        known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
        named = {part.partition("=")[0] for part in rest if part.startswith("--")}
        assert named <= known, shlex.join(command)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, place):
    result = python(block, cwd=place)
    assert result.returncode == 0, result.stderr


def anchors(document):
    """Of a document's headings, as code hosts and the site make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.stem)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_shows_a_picture_that_moves():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
    picture = ROOT / "docs" / "images" / "edits.webp"
    assert picture.name in (ROOT / "README.md").read_text()
    assert picture.stat().st_size < 1.5e6
    with Image.open(picture) as film:
        assert film.n_frames > 100


def test_the_tree_of_the_architecture_is_the_tree_on_disk():
    text = (ROOT / "docs" / "architecture.md").read_text().split("src/sama_video/\n")[1].split("```")[0]
    named, folder = set(), ""
    for line in text.splitlines():
        match = re.match(r"( +)(\S+)", line)
        if match is None:
            continue
        indent, name = len(match[1]), match[2]
        if name.endswith("/"):
            folder = name
        else:
            named.add(name if indent == 2 else folder + name)
    package = ROOT / "src" / "sama_video"
    on_disk = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert named == on_disk


def test_the_table_of_datasets_is_the_catalogue_s():
    assert catalogue_table().strip() in (ROOT / "docs" / "data.md").read_text()
