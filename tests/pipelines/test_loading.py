import logging
import os
import shutil
import sys
import threading

import diffusers
import pytest
import torch
import transformers
from diffusers import WanTransformer3DModel
from huggingface_hub import utils as hub_utils
from safetensors.torch import load_file, save_file

from sama_video.cli.app import main
from sama_video.editing import EditSettings, edit_video
from sama_video.models.strict_loading import check_finite, quiet_libraries
from sama_video.pipelines.conversion import convert_files
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.selection import Loading, ModelInfo, find_model
from sama_video.system.errors import UserError
from sama_video.system.files import hash_configuration, hash_weights
from tests import tiny
from tests.clips import write_clip
from tests.pipelines.mutations import change_entries, change_tensors, make_shards, weights_of, with_value

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_every_tensor_that_does_not_fit_is_named(folder):
    def change(state):
        state["proj_out.wight"] = state.pop("proj_out.weight")
        state["proj_out.bias"] = state["proj_out.bias"][:3]
        state["scale_shift_table"] = state["scale_shift_table"].to(torch.int32)

    change_tensors(weights_of(folder, "transformer"), change)
    with pytest.raises(UserError) as error:
        load_pipeline(str(folder))
    for words in (
        "unknown: proj_out.wight",
        "missing: proj_out.weight",
        "misshapen: proj_out.bias (3,) instead of (16,)",
        "not floating-point: scale_shift_table (I32)",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(part, value, folder):
    key = sorted(load_file(weights_of(folder, part)))[3]
    change_tensors(weights_of(folder, part), lambda state: with_value(value)(state[key]))
    with pytest.raises(UserError, match=f"no finite numbers .* in {key.replace('.', '[.]')};"):
        load_pipeline(str(folder))


def test_weights_too_large_for_the_dtype_are_not_finite_in_it(folder):
    change_tensors(weights_of(folder, "vae"), lambda state: with_value(1e6)(state[min(state)]))
    load_pipeline(str(folder))
    with pytest.raises(UserError, match=r"infinite in float16"):
        load_pipeline(str(folder), dtype="float16")


def test_a_lora_of_values_that_are_not_finite(folder, tmp_path):
    module = "transformer.blocks.0.attn1.to_q"
    lora = {f"{module}.lora_A.weight": torch.ones(2, 48), f"{module}.lora_B.weight": torch.ones(48, 2)}
    for name, value in (("fine", 0.5), ("spoilt", float("nan"))):
        lora[f"{module}.lora_B.weight"][3, 1] = value
        save_file(lora, tmp_path / f"{name}.safetensors")
    load_pipeline(str(folder), lora=[str(tmp_path / "fine.safetensors")])
    with pytest.raises(UserError, match=r"spoilt.* values that are no numbers, in .*blocks\.0\.attn1\.to_q\.lora_B"):
        load_pipeline(str(folder), lora=[str(tmp_path / f"{name}.safetensors") for name in ("fine", "spoilt")])


def test_a_pointer_of_git_lfs_is_called_that(folder):
    weights_of(folder, "vae").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        load_pipeline(str(folder))


def test_finite_is_said_of_any_dtype():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        check_finite({"a": torch.ones(3, dtype=dtype), "b": torch.ones(0, dtype=dtype)}, "here")
        with pytest.raises(UserError, match="in b;"):
            check_finite({"a": torch.ones(1), "b": torch.tensor([1.0, float("nan")]).to(dtype)}, "here")


def test_shards_load_as_one_file(folder):
    expected = load_pipeline(str(folder))
    for part in ("transformer", "vae", "text_encoder"):
        make_shards(folder, part)
    loaded = load_pipeline(str(folder))
    for part in ("transformer", "vae", "text_encoder"):
        before, after = getattr(expected, part).state_dict(), getattr(loaded, part).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_stock_wan_is_converted_first_and_then_starts_as_wan(folder, tmp_path):
    own = {key: value for key, value in tiny.TRANSFORMER.items() if not key.startswith("semantic_")}
    shutil.rmtree(folder / "transformer")
    WanTransformer3DModel(**own).save_pretrained(folder / "transformer")
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    change_entries(folder / "model_index.json", lambda values: values.update(index))
    with pytest.raises(UserError, match=r"'WanPipeline'.*sama convert"):
        load_pipeline(str(folder))
    convert_files(folder, tmp_path / "sama")
    pipe = load_pipeline(str(tmp_path / "sama"))
    assert not pipe.transformer.type_embedding.weight.any()
    write_clip(tmp_path / "clip.mp4")
    settings = EditSettings(num_frames=5, num_inference_steps=1, guidance_scale=1.0, height=32, width=32)
    record = edit_video(pipe, tmp_path / "clip.mp4", "x", tmp_path / "out.mp4", settings)
    assert "the model has not learned to edit" in record["notes"][0]


def test_a_sama_folder_without_samas_parts_is_not_stock_wan(folder, tmp_path):
    def drop(state):
        for key in [key for key in state if key.startswith(("type_embedding.", "semantic_"))]:
            del state[key]

    change_tensors(weights_of(folder, "transformer"), drop)
    for load in (load_pipeline, lambda name: convert_files(folder, tmp_path / "out") and name):
        with pytest.raises(UserError, match=r"missing: .*type_embedding\.weight"):
            load(str(folder))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_conversion_of_a_folder_is_as_strict(part, folder, tmp_path):
    key = sorted(load_file(weights_of(folder, part)))[1]
    change_tensors(weights_of(folder, part), lambda state: state.update({key + "x": state.pop(key)}))
    with pytest.raises(UserError, match=f"missing: {key}"):
        convert_files(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "entry", "value", "words"),
    [
        ("model_index.json", "native_area", 0, "native_area is 0"),
        ("model_index.json", "native_num_frames", 80, "4k+1"),
        ("model_index.json", "vae", [], "vae is []"),
        ("model_index.json", "text_encoder", ["os", "system"], "'system' of 'os'"),
        ("transformer/config.json", "patch_size", [1, 0, 2], "patch_size is [1, 0, 2]"),
        ("transformer/config.json", "num_layers", 10**9, "num_layers is 1000000000"),
        ("transformer/config.json", "in_channels", 8, "do not belong together"),
        ("vae/config.json", "latents_std", [1.0, 1.0, 0.0, 1.0], "above 0"),
        ("vae/config.json", "latents_mean", [0.0], "1 values for z_dim=4"),
        ("text_encoder/config.json", "model_type", "t5", "model_type is 't5'"),
    ],
)
def test_what_the_configurations_decide_is_said_before_any_weight_is_read(file, entry, value, words, folder):
    change_entries(folder / file, lambda values: values.update({entry: value}))
    for part in ("transformer", "vae", "text_encoder"):  # there, and not looked into
        weights_of(folder, part).write_bytes(b"x")
    with pytest.raises(UserError, match="model") as error:
        find_model(folder).info()
    assert words in str(error.value)


def test_what_no_model_can_have():
    for values in ({"native_area": 0}, {"native_num_frames": 4}, {"default_guidance_scale": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(values))):
            ModelInfo(pixel_multiple=16, **values)
    with pytest.raises(ValueError, match="pixel_multiple is 0"):
        ModelInfo(pixel_multiple=0)


def test_commands_end_with_one_sentence(folder, tmp_path, monkeypatch, capsys):
    write_clip(tmp_path / "clip.mp4")
    clip, model, out = tmp_path / "clip.mp4", str(folder), str(tmp_path / "out.mp4")

    def said(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["sama", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        text = capsys.readouterr().err
        assert "Traceback" not in text
        assert [line.partition(" ")[0] for line in text.splitlines()][-1:] == ["sama:"]
        assert all(line.startswith(("sama:", "loading ")) for line in text.splitlines())
        return text

    os.truncate(weights_of(folder, "text_encoder"), 1000)
    assert "model.safetensors is damaged or cut off" in said("edit", clip, "x", "--model", model, "-o", out)
    assert "cut off" in said("train", "smoke", "--out", tmp_path / "run", "--set", f"model.init={model}")
    assert "cut off" in said("convert", model, tmp_path / "converted")
    (folder / "model_index.json").write_text("[]")
    assert "JSON list" in said("edit", clip, "x", "--model", model, "-o", out, "--dry-run")


def test_library_settings_are_put_back(folder):
    def state():
        libraries = (diffusers.logging, transformers.logging)
        bars = [one.is_progress_bar_enabled() for one in libraries]
        return [*bars, *(one.get_verbosity() for one in libraries), hub_utils.are_progress_bars_disabled()]

    for change in ("enable_progress_bar", "disable_progress_bar"):
        for library in (diffusers.logging, transformers.logging):
            getattr(library, change)()
        before = state()
        load_pipeline(str(folder))
        assert state() == before
        weights_of(folder, "vae").rename(folder / "moved")
        with pytest.raises(UserError):
            load_pipeline(str(folder))
        assert state() == before
        (folder / "moved").rename(weights_of(folder, "vae"))
    transformers.logging.enable_progress_bar()
    diffusers.logging.enable_progress_bar()


def test_threads_that_overlap_put_library_settings_back():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with quiet_libraries():
            entered.set()
            leave.wait(600)

    before = diffusers.logging.is_progress_bar_enabled(), diffusers.logging.get_verbosity()
    thread = threading.Thread(target=other)
    with quiet_libraries():
        thread.start()
        assert entered.wait(600)
    assert not diffusers.logging.is_progress_bar_enabled()  # the other one is not ready
    leave.set()
    thread.join()
    assert (diffusers.logging.is_progress_bar_enabled(), diffusers.logging.get_verbosity()) == before


def test_casting_warns_of_no_empty_list(caplog):
    pipe = tiny.pipeline(text=False)
    diffusers.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            pipe.to(torch.bfloat16)
    finally:
        diffusers.logging.disable_propagation()
    assert pipe.vae.dtype == torch.bfloat16
    assert "SamaTransformer3DModel" in caplog.text  # which has parts that are better kept in float32
    assert "[]" not in caplog.text


def test_identity_of_folders_of_any_format(folder):
    def identity():
        return hash_weights(folder), hash_configuration(folder)

    first = identity()
    (folder / "README.md").write_text("words")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert identity() == first
    change_entries(folder / "transformer" / "config.json", lambda values: values.update(semantic_rope="identity"))
    second = identity()
    assert second[0] == first[0]
    assert second[1] != first[1]
    change_entries(folder / "tokenizer" / "tokenizer_config.json", lambda values: values.update(model_max_length=3))
    assert identity()[1] != second[1]
    for suffix in ("bin", "pt", "pth", "ckpt", "msgpack", "h5", "gguf"):
        name = folder / "vae" / f"weights.{suffix}"
        hashes = set()
        for content in (b"a", b"b"):
            name.write_bytes(content)
            hashes.add(hash_weights(folder))
        assert len(hashes) == 2


def test_the_shipped_models_identity_stays_while_its_weights_do():
    """Weights by their safetensors files alone: records of results are found by it."""
    provenance = Loading(model=find_model("nano")).provenance
    assert provenance["weights"] == "sha256:bdb452a1f72bbad229b6d4d5a27fc139e373fe342a9e12bbf2e185253c8577d7"
    assert provenance["configuration"].startswith("sha256:")


def test_a_hub_id_is_loaded_as_strictly(folder, tmp_path, monkeypatch):
    """From the hub's cache, as if it had been fetched."""
    snapshot = tmp_path / "hub" / "models--someone--sama" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.move(folder, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_model("someone/sama").info().native_area == 1024
    state = load_file(weights_of(snapshot, "vae"))
    save_file({key + "x": value for key, value in state.items()}, weights_of(snapshot, "vae"), {"format": "pt"})
    with pytest.raises(UserError, match=r"unknown: decoder\.conv_in\.biasx, .* missing: decoder\.conv_in\.bias, "):
        load_pipeline("someone/sama")
