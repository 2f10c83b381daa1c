import json
import pickle
import zipfile

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from sama_video.models.checkpoint_files import read_names, read_weights
from sama_video.models.convert_checkpoint import (
    load_official_text_encoder,
    load_official_transformer,
    load_official_vae,
    official_text_encoder_state,
    official_transformer_state,
)
from sama_video.system.errors import UserError
from tests.golden import FOLDER

DIT, VAE, T5 = (FOLDER / f"{name}_weights.safetensors" for name in ("dit_tiny24", "vae_dim8", "t5"))
HEADS = 4


def save(state, file):
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    return file


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def as_read(file):
    return official_transformer_state(load_official_transformer(file, HEADS))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def refused(file, *words, read=read_weights):
    with pytest.raises(UserError) as caught:
        read(file)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "prefix", ["model.diffusion_model.", "diffusion_model.", "module.", "model._orig_mod.", "pipe.dit.", "net."]
)
def test_a_prefix_before_all_names(prefix, tmp_path):
    assert equal(as_read(save(under(prefix, load_file(DIT)), tmp_path / "a.safetensors")), load_file(DIT))


def test_a_gguf_file_as_converters_for_comfyui_write_it(tmp_path):
    """Matrices in blocks of 32 eight-bit numbers, and one of five dimensions, which ggml does not know."""
    state, q8 = load_file(DIT), gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "dit.gguf", "wan")
    quantised = []
    for name, tensor in state.items():
        values = tensor.float().numpy()
        if values.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            values = values.reshape(-1)
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            quantised.append(name)
            writer.add_tensor(name, gguf.quantize(values, q8), raw_dtype=q8)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = read_weights(tmp_path / "dit.gguf")
    assert quantised
    assert weights.notes == [f"dit.gguf: quantised matrices were widened to bfloat16 ({len(quantised)} of Q8_0)"]
    for name, tensor in state.items():
        exact = name not in quantised
        assert weights.state[name].shape == tensor.shape
        error = (weights.state[name].float() - tensor.float()).abs().max()
        assert error <= (0 if exact else 0.01 * tensor.abs().max()), name
    assert sorted(read_names(tmp_path / "dit.gguf")) == sorted(state)
    load_official_transformer(weights, HEADS)


def test_all_parts_in_one_file(tmp_path):
    parts = under("model.diffusion_model.", load_file(DIT)) | under("first_stage_model.", load_file(VAE))
    weights = read_weights(save(parts | under("cond_stage_model.", load_file(T5)), tmp_path / "all.safetensors"))
    assert equal(official_transformer_state(load_official_transformer(weights, HEADS)), load_file(DIT))
    assert weights.notes == ["all.safetensors also holds other parts, which were left out: cond_stage_model, "
                             "first_stage_model"]  # fmt: skip
    assert load_official_vae(tmp_path / "all.safetensors").config.z_dim == 16
    assert load_official_text_encoder(tmp_path / "all.safetensors").config.d_model == 64
    two = under("generator.", load_file(DIT)) | under("critic.", load_file(DIT))
    refused(save(two, tmp_path / "two.safetensors"), "several models: critic., generator.", read=as_read)


@pytest.mark.parametrize(
    "tree",
    [
        lambda s: {"state_dict": s, "epoch": 1},
        lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {"module": s, "ds_version": "0.1"},
        lambda s: {"ema": s, "model": {key: value + 1 for key, value in s.items()}},
        lambda s: {"generator_ema": under("model.", s), "generator": under("model.", s), "step": 3},
        lambda s: {"ema": {"decay": 0.9}, "state_dict": {"model": under("module.", s)}},
    ],
)
def test_weights_inside_a_training_s_checkpoint(tree, tmp_path):
    torch.save(tree(load_file(DIT)), tmp_path / "a.ckpt")
    assert equal(as_read(tmp_path / "a.ckpt"), load_file(DIT))
    assert "left out: " in read_weights(tmp_path / "a.ckpt").notes[-1]


def test_all_of_pytorch_s_own_formats(tmp_path):
    state = load_file(DIT)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "named_wrongly.safetensors")
    save(state, tmp_path / "named_wrongly.pth")
    torch.save({key: torch.nn.Parameter(value) for key, value in state.items()}, tmp_path / "parameters.bin")
    for name in ("old.pt", "named_wrongly.safetensors", "named_wrongly.pth", "parameters.bin"):
        assert equal(as_read(tmp_path / name), state), name


def wide():
    return {key: value.float() for key, value in load_file(DIT).items()}


def float8(state, scale_name="scale_weight", per_row=False, marker=True):
    """As ComfyUI and LightX2V write it: matrices of the blocks in float8, a scale beside each."""
    result = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if marker else {}
    expected = {}
    for key, value in state.items():
        if value.ndim == 2 and key.startswith("blocks.") and key.endswith(".weight"):
            scale = (value.abs().amax(dim=1, keepdim=True) if per_row else value.abs().max()) / 448
            result[key] = (value / scale).to(torch.float8_e4m3fn)
            result[f"{key.removesuffix('weight')}{scale_name}"] = scale
            expected[key] = result[key].float() * scale
        else:
            result[key] = expected[key] = value
    return result, expected


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, ""),
        ({}, "model.diffusion_model."),
        ({"scale_name": "weight_scale", "marker": False, "per_row": True}, ""),
        ({"scale_name": "weight_scale", "per_row": True}, "model.diffusion_model."),
    ],
)
def test_float8_is_multiplied_out(options, prefix, tmp_path):
    state, expected = float8(wide(), **options)
    extra = {f"{prefix}blocks.0.ffn.0.scale_input": torch.ones(1)}
    weights = read_weights(save(under(prefix, state) | extra, tmp_path / "a.safetensors"))
    assert equal(official_transformer_state(load_official_transformer(weights, HEADS)), expected)
    assert weights.notes == ["20 float8 matrices were multiplied by their scales to float32"]
    plain = wide()
    for key, value in expected.items():
        # float8 e4m3 has three bits behind the point: half a unit of the last, of the largest of a row at most.
        assert (value - plain[key]).abs().max() <= plain[key].abs().max() / 16


def test_plain_float8_and_the_type_of_the_rest(tmp_path):
    state = {key: value.half() for key, value in load_file(DIT).items()}
    narrow = {key: value.to(torch.float8_e5m2) if value.ndim == 2 else value for key, value in state.items()}
    read = read_weights(save(narrow, tmp_path / "a.safetensors"))
    assert {value.dtype for value in read.state.values()} == {torch.float16}
    assert equal(read.state, {key: value.half() for key, value in narrow.items()})
    all_of_it = {key: value.to(torch.float8_e4m3fn) for key, value in state.items()}
    read = read_weights(save(all_of_it, tmp_path / "b.safetensors"))
    assert {value.dtype for value in read.state.values()} == {torch.bfloat16}


def test_scales_that_do_not_fit(tmp_path):
    state, _ = float8(wide())
    key = "blocks.0.ffn.0.scale_weight"
    lacking = {name: value for name, value in state.items() if name != key}
    refused(save(lacking, tmp_path / "a.safetensors"), "lacks the scales of blocks.0.ffn.0.weight")
    refused(save(state | {key: torch.ones(5)}, tmp_path / "b.safetensors"), "neither one number nor one per row")
    refused(save(state | {"other.scale_weight": torch.ones(1)}, tmp_path / "c.safetensors"), "for no float8 matrix")
    four = {"blocks.0.ffn.0.weight_scale_2": torch.ones(1)}
    refused(save(state | four, tmp_path / "d.safetensors"), "quantised weights of a format that is not readable")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"GGUF\x03\0\0\0" + b"{" + b"\0" * 64, "is damaged or of a kind that gguf cannot read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n\n  <html>", "is a web page"),
        (b"\x1f\x8b\x08" + b"\0" * 20, "gzip archive"),
        (b"no weights at all", "damaged or not a weights file"),
        (b"\0" * 100, "damaged or not a weights file"),
        (b"\xff" * 100, "damaged or not a weights file"),
        (b"\xff" * 8 + b"{" + b"\0" * 50, "damaged or cut off"),
        (b"\x02\0\0\0\0\0\0\0{}"[:9], "damaged or cut off"),
        (b"\x0a\0\0\0\0\0\0\0{\"a\": [}  ", "damaged or cut off"),
        (b"PK\x03\x04" + b"\0" * 60, "damaged or not a weights file"),
        (b"\x80\x02" + b"\0" * 60, "damaged or not a weights file"),
        (pickle.dumps([1, 2]), "damaged or not a weights file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_files_that_are_no_weights(content, words, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words)
    refused(tmp_path / name, words, read=read_names)


def test_files_that_were_cut(tmp_path):
    torch.save(load_file(DIT), tmp_path / "whole.pth")
    for source, name in ((DIT, "cut.safetensors"), (tmp_path / "whole.pth", "cut.pth")):
        content = source.read_bytes()
        for length in (7, 8, 9, 100, len(content) // 2, len(content) - 1):
            (tmp_path / name).write_bytes(content[:length])
            refused(tmp_path / name, "damaged")


class Evil:
    def __reduce__(self):
        return print, ("gotcha",)


def test_no_code_of_a_file_runs(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    refused(tmp_path / "evil.pth", "holds other objects than tensors (print)", "could run code")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"a": Evil()}))
    refused(tmp_path / "evil.bin", "evil.bin")
    assert "gotcha" not in capsys.readouterr().out


def test_pytorch_files_that_hold_something_else(tmp_path):
    itself: dict = {}
    itself["model"] = itself
    for tree, words in (
        ([torch.ones(2)], "one list"),
        (torch.ones(2), "one Tensor"),
        ({}, "nothing"),
        ({"step": 3, "weight": torch.ones(2)}, "other things too: step"),
        ({1: torch.ones(2)}, "does not hold a plain state dict"),
        (itself, "other things too: model"),
    ):
        torch.save(tree, tmp_path / "a.pth")
        refused(tmp_path / "a.pth", words)
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("holiday.txt", "not a model")
    refused(tmp_path / "photos.pth", "damaged or not a weights file")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    refused(tmp_path / "script.pt", "TorchScript")


def shards(folder, index):
    folder.mkdir()
    state = load_file(DIT)
    keys = sorted(state)
    names = ["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"]
    for number, name in enumerate(names):
        save({key: state[key] for key in keys[number::2]}, folder / name)
    if index is not None:
        (folder / "a.safetensors.index.json").write_text(index)
    return folder


def test_an_index_says_which_files_count(tmp_path):
    names = {key: f"a-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(sorted(load_file(DIT)))}
    folder = shards(tmp_path / "shards", json.dumps({"weight_map": names}))
    save({"of another model": torch.ones(2)}, folder / "vae.safetensors")
    assert equal(as_read(folder), load_file(DIT))
    (folder / "a-00002-of-00002.safetensors").unlink()
    refused(folder, "lacks a-00002-of-00002.safetensors: the download is incomplete")


@pytest.mark.parametrize(
    "index", ["", "{", "[]", "null", "3", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}',
              '{"weight_map": null}', "[" * 100_000, '{"weight_map": {"a": null}}']
)  # fmt: skip
def test_a_broken_index(index, tmp_path):
    refused(shards(tmp_path / "shards", index), ".index.json ")


def test_other_folders(tmp_path):
    refused(shards(tmp_path / "outside", '{"weight_map": {"a": "../x.safetensors"}}'), "which is no file beside it")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no weights at")
    refused(tmp_path / "nothing.safetensors", "no weights at")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors", "no weights at")
    folder = shards(tmp_path / "twice", None)
    save({sorted(load_file(DIT))[0]: torch.ones(2)}, folder / "b.safetensors")
    refused(folder, "repeats keys of another shard")
    for name in ("x", "y"):
        (folder / f"{name}.index.json").write_text("{}")
    refused(folder, "several sets of weights")


def image_to_video(state):
    return state | {"img_emb.proj.0.weight": torch.ones(4), "blocks.0.cross_attn.k_img.weight": torch.ones(4, 4)}


def more_channels(state):
    return state | {"patch_embedding.weight": torch.ones(96, 36, 1, 2, 2)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (image_to_video, ["it is an image-to-video model"]),
        (more_channels, ["image-to-video, inpainting or control model", "36 channels for 16"]),
        (lambda s: s | {"vace_blocks.0.self_attn.q.weight": torch.ones(2)}, ["it is a VACE model"]),
        (lambda s: s | {"control_adapter.conv.weight": torch.ones(2)}, ["it is a model with a control branch"]),
        (lambda s: s | {"audio_injector.x.weight": torch.ones(2)}, ["it is a speech-to-video model"]),
        (lambda _: {"double_blocks.0.img_attn.qkv.weight": torch.ones(2)}, ["FLUX or HunyuanVideo"]),
        (lambda _: {"transformer_blocks.0.attn1.to_q.weight": torch.ones(2)}, ["a transformer of another family"]),
        (lambda _: {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, ["Stable Diffusion"]),
        (lambda _: {"visual.conv1.weight": torch.ones(2), "textual.x": torch.ones(2)}, ["an image encoder"]),
        (lambda _: load_file(VAE), ["it is a Wan VAE; pass it as `vae`"]),
        (lambda _: load_file(T5), ["it is a UMT5 encoder of Wan's; pass it as `text_encoder`"]),
        (lambda _: {"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2)}, ["it is a LoRA"]),
        (lambda _: {"condition_embedder.text_embedder.linear_1.weight": torch.ones(2)}, ["has diffusers' names"]),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.0.self")}, ["missing: blocks.0.attn1"]),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.1.")} | {"blocks.7.x": torch.ones(1)},
         ["missing blocks: 1, 2, 3"]),
        (lambda s: s | {"blocks.999999.x": torch.ones(1)}, ["missing blocks: "]),
        (lambda s: s | {"patch_embedding.weight": torch.ones(3)}, ["misshapen: patch_embedding.weight (3,)"]),
        (lambda s: s | {"patch_embedding.weight": torch.ones(96, 16, 1, 0, 2)}, ["misshapen: patch_embedding.weight"]),
        (lambda s: s | {"head.head.bias": s["head.head.bias"] * torch.inf}, ["not finite: proj_out.bias"]),
        (lambda s: s | {"head.head.bias": s["head.head.bias"].int()}, ["not floating-point: proj_out.bias"]),
    ],
)  # fmt: skip
def test_other_models_are_named(change, words, tmp_path):
    refused(save(change(load_file(DIT)), tmp_path / "a.safetensors"), *words, read=as_read)


@pytest.mark.parametrize("entry", ["{", "[]", "3", '{"num_attention_heads": "four"}', '{"semantic_rope": "no"}'])
def test_a_header_that_does_not_fit(entry, tmp_path):
    save_file(load_file(DIT), tmp_path / "a.safetensors", metadata={"sama_config": entry})
    refused(tmp_path / "a.safetensors", read=as_read)


def test_comfyui_s_text_encoder(tmp_path):
    """transformers' names, the tokenizer among the weights, float8."""
    plain = load_official_text_encoder(T5)
    state = dict(plain.state_dict()) | {"spiece_model": torch.zeros(10, dtype=torch.uint8)}
    loaded = load_official_text_encoder(save({k: v.clone() for k, v in state.items()}, tmp_path / "a.safetensors"))
    assert equal(official_text_encoder_state(loaded), load_file(T5))
