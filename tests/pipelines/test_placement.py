"""Where weights are and in what they are stored: results that stay as they are, or nearly."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sama_video.cli.app import main
from sama_video.pipelines import selection
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.selection import Loading, find_model
from sama_video.system.errors import UserError
from tests import tiny
from tests.clips import write_clip
from tests.pipelines.mutations import change_tensors, make_shards, weights_of, with_value

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.pipeline().save_pretrained(folder)
    return folder


def edited(pipe, **more) -> np.ndarray:
    clip = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0} | more
    return pipe(video=clip, prompt="make it red", generator=torch.Generator().manual_seed(0), **options).frames[0]


def test_weights_that_stay_on_disk_give_the_same_picture(folder):
    streamed = load_pipeline(str(folder), offload="disk")
    for part in (streamed.transformer, streamed.text_encoder):
        assert all(weight.is_meta for weight in part.parameters())
    expected = edited(load_pipeline(str(folder)))
    assert np.array_equal(edited(streamed), expected)
    assert np.array_equal(edited(streamed), expected)  # and are there for the next call
    assert all(weight.is_meta for weight in streamed.transformer.parameters())


def test_shards_can_stay_on_disk(folder, tmp_path):
    parts = tmp_path / "model"
    tiny.pipeline().save_pretrained(parts)
    make_shards(parts, "transformer")
    assert np.array_equal(edited(load_pipeline(str(parts), offload="disk")), edited(load_pipeline(str(folder))))


def test_a_precision_that_some_layers_do_not_take_is_the_same_from_disk(folder):
    plain, streamed = (load_pipeline(str(folder), dtype="bfloat16", offload=offload) for offload in ("none", "disk"))
    kept = {name: weight.dtype for name, weight in plain.transformer.named_parameters()}
    assert {name: weight.dtype for name, weight in streamed.transformer.named_parameters()} == kept
    assert set(kept.values()) == {torch.float32, torch.bfloat16}
    assert np.array_equal(edited(streamed), edited(plain))


def test_weights_on_disk_are_refused_by_name_before_the_first_step_or_as_they_are_read(tmp_path):
    whole = tmp_path / "model"
    tiny.pipeline().save_pretrained(whole)
    key = "blocks.1.ffn.net.2.weight"
    change_tensors(weights_of(whole, "transformer"), lambda state: with_value(float("nan"))(state[key]))
    pipe = load_pipeline(str(whole), offload="disk")
    with pytest.raises(UserError, match=rf"no finite numbers .* in {key}"):
        edited(pipe)
    change_tensors(weights_of(whole, "transformer"), lambda state: state.pop(key))
    with pytest.raises(UserError, match=f"missing: {key}"):
        load_pipeline(str(whole), offload="disk")


def test_weights_in_pytorch_s_format_do_not_stay_on_disk(tmp_path):
    whole = tmp_path / "model"
    tiny.pipeline().save_pretrained(whole)
    file = weights_of(whole, "transformer")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(UserError, match="not read in parts; write them as safetensors: sama convert"):
        load_pipeline(str(whole), offload="disk")


def test_weights_on_disk_are_stored_as_they_are(folder):
    with pytest.raises(UserError, match="`offload` disk keeps no weights in memory"):
        load_pipeline(str(folder), offload="disk", storage_dtype="float8")


def test_matrices_in_float8_take_a_byte_and_give_nearly_the_same_picture(folder):
    pipe, plain = load_pipeline(str(folder), storage_dtype="float8"), load_pipeline(str(folder))
    stored = {name: weight.dtype for name, weight in pipe.transformer.named_parameters()}
    assert stored["blocks.0.ffn.net.2.weight"] == torch.float8_e4m3fn
    assert stored["proj_out.weight"] == stored["blocks.0.norm2.weight"] == torch.float32
    difference = np.abs(edited(pipe) - edited(plain)).mean()
    assert 0 < difference < 0.01
    assert edited(pipe).std() > 10 * difference


def test_a_lora_beside_matrices_in_float8(folder, tmp_path):
    module = "transformer.blocks.0.attn1.to_v"
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{module}.lora_A.weight": torch.randn(2, 48, generator=generator),
        f"{module}.lora_B.weight": 5 * torch.randn(48, 2, generator=generator),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    options = {"lora": [str(tmp_path / "lora.safetensors")]}
    narrow, plain = (
        edited(load_pipeline(str(folder), storage_dtype=kind, **options))
        - edited(load_pipeline(str(folder), storage_dtype=kind))
        for kind in ("float8", "same")
    )
    assert np.corrcoef(narrow.ravel(), plain.ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_matrices_in_int8_by_torchao(folder, tmp_path):
    """In a process of its own: torchao says more than a little when it is imported, wherever it is installed."""
    target = tmp_path / "torchao"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, "torchao==0.18.0"]
    if subprocess.run(install, check=False).returncode:
        pytest.skip("torchao cannot be fetched here")
    code = f"""
import sys; sys.path.append({str(target)!r})
import numpy as np
from tests.pipelines.test_placement import edited, load_pipeline
pipe, plain = load_pipeline({str(folder)!r}, storage_dtype="int8"), load_pipeline({str(folder)!r})
weight = pipe.transformer.blocks[0].ffn.net[2].weight
assert type(weight) is not type(pipe.transformer.proj_out.weight), type(weight)
difference = np.abs(edited(pipe) - edited(plain)).mean()
assert 0 < difference < 0.003, difference
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_int8_says_what_it_needs(folder):
    with pytest.raises(UserError, match=r"pip install 'sama-video\[int8\]'"):
        load_pipeline(str(folder), storage_dtype="int8")


class Room:
    """So much memory, everywhere."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def __call__(self, mib: float) -> None:
        for name in ("free_memory", "device_memory"):
            self.monkeypatch.setattr(selection, name, lambda _device: mib * 2**20)


@pytest.fixture
def room(monkeypatch):
    return Room(monkeypatch)


def test_memory_chooses_by_what_is_free(room):
    loading = Loading(model=find_model("nano"), memory="auto")
    room(10_000)
    assert loading.resolved_offload == "none"
    assert replace(loading, memory="low").resolved_offload == "disk"
    assert replace(loading, memory="low").tiles
    room(10)
    assert replace(loading).resolved_offload == "disk"
    assert replace(loading, memory="full").resolved_offload == "none"
    assert replace(loading, storage_dtype="float8").resolved_offload == "none"  # nothing else would do
    assert not loading.tiles


def test_what_was_chosen_is_said_and_recorded(room, folder, tmp_path, monkeypatch, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 5, height=32, width=32)
    room(0.001)
    command = ["edit", str(clip), "make it red", "--model", str(folder), "--num-inference-steps", "1"]
    monkeypatch.setattr(sys, "argv", ["sama", *command, "-o", str(tmp_path / "red.mp4")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "note: --memory auto chose --offload disk" in capsys.readouterr().err
    assert '"offload": "disk"' in (tmp_path / "red.mp4.json").read_text()
    assert '"vae_tiling": false' in (tmp_path / "red.mp4.json").read_text()
