"""LoRA files on a pipeline: the weights are what the file's numbers say, at every scale, and come back exactly."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sama_video.pipelines.conversion import convert_files
from sama_video.pipelines.loading import load_pipeline
from sama_video.system.errors import UserError
from tests import tiny
from tests.models.test_lora_namings import NAMINGS, RANK, WIDTH, expected, matrices, named

ALPHA = 3


@pytest.fixture
def pipe():
    return tiny.pipeline()


def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([400.0]),
        "encoder_hidden_states": torch.randn(1, 6, 16, generator=generator),
        "semantic_hidden_states": torch.randn(1, 5, 12, generator=generator),
    }


def output(transformer):
    with torch.no_grad():
        return transformer(**inputs()).sample


def weights(transformer):
    """Under the names that the model has without adapters."""
    state = transformer.state_dict()
    return {key.replace(".base_layer", ""): v.clone() for key, v in state.items() if ".lora_" not in key}


def differences(prefix="diffusion_model."):
    """`{key: (official name, own parameter, value)}` of all kinds, on modules with low-rank changes and without."""
    generator = torch.Generator().manual_seed(2)
    shapes = {
        "blocks.0.self_attn.q.diff_b": ("blocks.0.attn1.to_q.bias", (WIDTH,)),
        "blocks.0.self_attn.q.diff": ("blocks.0.attn1.to_q.weight", (WIDTH, WIDTH)),
        "blocks.1.norm3.diff": ("blocks.1.norm2.weight", (WIDTH,)),
        "blocks.1.norm3.diff_b": ("blocks.1.norm2.bias", (WIDTH,)),
        "blocks.1.self_attn.norm_k.diff": ("blocks.1.attn1.norm_k.weight", (WIDTH,)),
        "blocks.0.diff_m": ("blocks.0.scale_shift_table", (1, 6, WIDTH)),
        "head.head.diff_b": ("proj_out.bias", (16,)),
        "patch_embedding.diff": ("patch_embedding.weight", (WIDTH, 4, 1, 2, 2)),
    }
    values = {key: torch.randn(shape, generator=generator) * 0.05 for key, (_, shape) in shapes.items()}
    return {prefix + key: value for key, value in values.items()}, {
        own: values[key] for key, (own, _) in shapes.items()
    }


def changed(pipe, factor=1.0, full=(), factors=None):
    """The model's output with B @ A * factor in its weights, and `full` added to whole parameters."""
    state = weights(pipe.transformer)
    for module, delta in expected(factor).items():
        state[f"{module}.weight"] += delta.float()
    for key, value in dict(full).items():
        state[key] += value * (1.0 if factors is None else factors)
    model = tiny.transformer()
    model.load_state_dict(state)
    return output(model)


def close(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=2e-5)


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_changes_the_model_alike(naming, pipe, tmp_path):
    name, leaves = NAMINGS[naming]
    before, base = output(pipe.transformer), weights(pipe.transformer)
    save_file(named(name, **leaves, alpha=ALPHA), tmp_path / "lora.safetensors")
    convert_files(tmp_path / "lora.safetensors", tmp_path / "converted.safetensors")
    whole, half = changed(pipe, ALPHA / RANK), changed(pipe, 0.5 * ALPHA / RANK)
    assert (whole - before).abs().max() > 1e-2
    for file in ("lora.safetensors", "converted.safetensors"):
        pipe.load_lora_weights(tmp_path / file, adapter_name="a")
        close(output(pipe.transformer), whole)
        pipe.set_adapters("a", 0.5)
        close(output(pipe.transformer), half)
        pipe.disable_lora()
        assert torch.equal(output(pipe.transformer), before)
        pipe.unload_lora_weights()
        assert all(torch.equal(value, base[key]) for key, value in weights(pipe.transformer).items())


def file_with_differences(tmp_path):
    changes, own = differences()
    save_file(named(NAMINGS["ComfyUI"][0], alpha=ALPHA) | changes, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors", own


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lora_counts_alike_where_the_weights_stay_on_disk(dtype, pipe, tmp_path):
    folder, (file, own) = tmp_path / "model", file_with_differences(tmp_path)
    pipe.save_pretrained(folder)
    plain, streamed = (
        load_pipeline(str(folder), dtype=dtype, lora=[f"{file}:0.5"], offload=offload) for offload in ("none", "disk")
    )
    assert all(weight.is_meta for weight in streamed.transformer.parameters())
    clip = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, second = (
        one(video=clip, prompt="x", num_inference_steps=1, output_type="pt", generator=torch.Generator().manual_seed(0))
        for one in (plain, streamed)
    )
    assert torch.equal(first.frames, second.frames)
    if dtype == "float32":
        close(output(streamed.transformer), changed(pipe, 0.5 * ALPHA / RANK, own, 0.5))
    with pytest.raises(ValueError, match="cannot be scaled while they are offloaded"):
        streamed.set_adapters("lora_0", 1.0)
    with pytest.raises(ValueError, match="give the LoRA files to load_pipeline"):
        streamed.load_lora_weights(file)


def test_low_rank_changes_of_weights_on_disk_can_be_scaled(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    save_file(named(NAMINGS["ComfyUI"][0], alpha=ALPHA), tmp_path / "lora.safetensors")
    streamed = load_pipeline(str(tmp_path / "model"), lora=[str(tmp_path / "lora.safetensors")], offload="disk")
    streamed.set_adapters("lora_0", 0.5)
    close(output(streamed.transformer), changed(pipe, 0.5 * ALPHA / RANK))


def test_differences_count_as_much_as_their_adapter(pipe, tmp_path):
    file, own = file_with_differences(tmp_path)
    before, base = output(pipe.transformer), weights(pipe.transformer)
    whole = changed(pipe, ALPHA / RANK, own)
    part = changed(pipe, 0.25 * ALPHA / RANK, own, 0.25)
    assert (whole - changed(pipe, ALPHA / RANK)).abs().max() > 1e-2
    pipe.load_lora_weights(file, adapter_name="a")
    close(output(pipe.transformer), whole)
    pipe.set_adapters("a", 0.25)
    close(output(pipe.transformer), part)
    pipe.disable_lora()
    assert torch.equal(output(pipe.transformer), before)
    pipe.enable_lora()
    close(output(pipe.transformer), part)
    pipe.delete_adapters("a")
    assert all(torch.equal(value, base[key]) for key, value in weights(pipe.transformer).items())


def test_two_at_once(pipe, tmp_path):
    """The second's names are those of the model with the first one's layers around its own."""
    file, own = file_with_differences(tmp_path)
    other = named(NAMINGS["musubi-tuner"][0], alpha=1)
    other |= {"blocks.1.ffn.2.diff_b": torch.ones(WIDTH) / 10, "blocks.0.self_attn.q.diff_b": torch.ones(WIDTH)}
    save_file(other, tmp_path / "other.safetensors")
    base = weights(pipe.transformer)
    both = {key: 0.5 * value for key, value in own.items()} | {"blocks.1.ffn.net.2.bias": torch.ones(WIDTH) / 40}
    both["blocks.0.attn1.to_q.bias"] = both["blocks.0.attn1.to_q.bias"] + 0.25
    whole = changed(pipe, 0.5 * ALPHA / RANK + 0.25 / RANK, both)
    only_first = changed(pipe, ALPHA / RANK, own)
    pipe.load_lora_weights(file, adapter_name="a")
    pipe.load_lora_weights(tmp_path / "other.safetensors", adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.5, 0.25])
    close(output(pipe.transformer), whole)
    pipe.set_adapters(["b", "a"], [0.25, 0.5])
    close(output(pipe.transformer), whole)
    pipe.set_adapters("a")
    close(output(pipe.transformer), only_first)
    pipe.delete_adapters("b")
    close(output(pipe.transformer), only_first)
    pipe.unload_lora_weights()
    assert all(torch.equal(value, base[key]) for key, value in weights(pipe.transformer).items())


def test_adapters_of_different_modules_keep_their_scales(pipe, tmp_path):
    """The second has no part in the first layer that has an adapter."""
    pairs = {key: value for key, value in matrices().items() if key[0] == "blocks.0.self_attn.q"}
    save_file(named(NAMINGS["ComfyUI"][0], pairs=pairs), tmp_path / "a.safetensors")
    pairs = {key: value for key, value in matrices().items() if key[0] == "blocks.1.ffn.2"}
    change = {"diffusion_model.blocks.1.norm3.diff": torch.ones(WIDTH)}
    save_file(named(NAMINGS["ComfyUI"][0], pairs=pairs) | change, tmp_path / "b.safetensors")
    norm = pipe.transformer.blocks[1].norm2.weight.clone()
    for name in "ab":
        pipe.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(["a", "b"], [1.0, 0.5])
    close(pipe.transformer.blocks[1].norm2.weight, norm + 0.5)


def test_fused_unfused_and_unloaded(pipe, tmp_path):
    file, own = file_with_differences(tmp_path)
    base = weights(pipe.transformer)
    whole, half = changed(pipe, ALPHA / RANK, own), changed(pipe, 0.5 * ALPHA / RANK, own, 0.5)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(lora_scale=0.5)
    close(output(pipe.transformer), half)
    pipe.disable_lora()  # takes it out of the weights
    close(output(pipe.transformer), changed(pipe, 0))
    pipe.unload_lora_weights()
    for key, value in weights(pipe.transformer).items():
        # peft subtracts what it added; parameters that change whole come back exactly.
        torch.testing.assert_close(value, base[key], rtol=0, atol=0 if key in own else 1e-6)
    pipe.transformer.load_state_dict(base)
    pipe.load_lora_weights(file)
    pipe.fuse_lora()
    pipe.unfuse_lora()
    close(output(pipe.transformer), whole)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    close(output(pipe.transformer), whole)
    pipe.unload_lora_weights()
    close(output(pipe.transformer), whole)


def test_the_command_merges_differences(pipe, tmp_path):
    file, own = file_with_differences(tmp_path)
    pipe.save_pretrained(tmp_path / "model")
    convert_files(file, tmp_path / "merged", merge_into=str(tmp_path / "model"))
    close(output(load_pipeline(str(tmp_path / "merged")).transformer), changed(pipe, ALPHA / RANK, own))
    loaded = load_pipeline(str(tmp_path / "model"), lora=[f"{file}:0.5"])
    close(output(loaded.transformer), changed(pipe, 0.5 * ALPHA / RANK, own, 0.5))


def test_differences_alone(pipe, tmp_path):
    changes, own = differences()
    save_file(changes, tmp_path / "lora.safetensors")
    before = output(pipe.transformer)
    pipe.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="a")
    close(output(pipe.transformer), changed(tiny.pipeline(), 0, own))
    pipe.set_adapters("a", 0.5)
    close(output(pipe.transformer), changed(tiny.pipeline(), 0, own, 0.5))
    pipe.unload_lora_weights()
    assert torch.equal(output(pipe.transformer), before)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_every_type_of_number(dtype, pipe, tmp_path):
    pairs = {names: (a.to(dtype), b.to(dtype)) for names, (a, b) in matrices().items()}
    save_file(named(NAMINGS["ComfyUI"][0], alpha=ALPHA, pairs=pairs), tmp_path / "lora.safetensors")
    wide = {names: (a.float(), b.float()) for names, (a, b) in pairs.items()}
    state = weights(pipe.transformer)
    for module, delta in expected(ALPHA / RANK, wide).items():
        state[f"{module}.weight"] += delta.float()
    model = tiny.transformer()
    model.load_state_dict(state)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    close(output(pipe.transformer), output(model))


def test_ranks_that_differ(pipe, tmp_path):
    pairs = matrices(1, 2) | {key: value for key, value in matrices(2, 6).items() if key[0].startswith("blocks.1")}
    save_file(named(NAMINGS["diffusers"][0], **NAMINGS["diffusers"][1], pairs=pairs), tmp_path / "lora.safetensors")
    state = weights(pipe.transformer)
    for module, delta in expected(1.0, pairs).items():
        state[f"{module}.weight"] += delta.float()
    model = tiny.transformer()
    model.load_state_dict(state)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    close(output(pipe.transformer), output(model))


def test_peft_s_folder(pipe, tmp_path):
    """Its alpha stands in a file beside the weights."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    name, leaves = NAMINGS["peft"]
    save_file(named(name, **leaves), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}))
    whole = changed(pipe, ALPHA / RANK)
    convert_files(folder, tmp_path / "converted.safetensors")
    for path in (folder, folder / "adapter_model.safetensors", tmp_path / "converted.safetensors"):
        pipe.load_lora_weights(path)
        close(output(pipe.transformer), whole)
        pipe.unload_lora_weights()


def test_alpha_in_the_header_that_diffusers_writes(pipe, tmp_path):
    name, leaves = NAMINGS["diffusers"]
    header = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    save_file(named(name, **leaves), tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": json.dumps(header)})
    convert_files(tmp_path / "a.safetensors", tmp_path / "converted.safetensors")
    whole = changed(pipe, ALPHA / RANK)
    for file in ("a.safetensors", "converted.safetensors"):
        pipe.load_lora_weights(tmp_path / file)
        close(output(pipe.transformer), whole)
        pipe.unload_lora_weights()


def test_a_state_in_memory(pipe):
    state = named(NAMINGS["VideoX-Fun"][0], alpha=ALPHA)
    keys = set(state)
    whole = changed(pipe, ALPHA / RANK)
    pipe.load_lora_weights(state)
    close(output(pipe.transformer), whole)
    assert set(state) == keys


def wider(state):
    return {key: torch.cat([value, value], -1) if ".lora_down." in key else value for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wider, r"no modules of these names and sizes: blocks\.0\.attn1\.to_k \(4, 96\)"),
        (lambda s: {k.replace("blocks.1.", "blocks.7."): v for k, v in s.items()}, r"blocks\.7\.attn1\.to_k"),
        (lambda s: s | {"diffusion_model.blocks.0.norm3.diff": torch.ones(5)}, r"blocks\.0\.norm2\.weight"),
        (lambda s: s | {"diffusion_model.blocks.9.norm3.diff": torch.ones(48)}, r"blocks\.9\.norm2\.weight"),
    ],
)
def test_a_lora_of_a_larger_model_changes_nothing(change, words, pipe, tmp_path):
    save_file(change(named(NAMINGS["ComfyUI"][0])), tmp_path / "lora.safetensors")
    before = output(pipe.transformer)
    with pytest.raises(ValueError, match=words):
        pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert torch.equal(output(pipe.transformer), before)
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=f"does not fit this model.*{words}"):
        load_pipeline(str(tmp_path / "model"), lora=[str(tmp_path / "lora.safetensors")])


def test_what_is_converted_has_diffusers_names(tmp_path):
    file, own = file_with_differences(tmp_path)
    convert_files(file, tmp_path / "converted.safetensors")
    keys = load_file(tmp_path / "converted.safetensors").keys()
    assert "transformer.blocks.0.attn1.to_q.lora_B.weight" in keys
    assert {key for key in keys if ".diff" in key} >= {"transformer.blocks.1.norm2.diff", "transformer.proj_out.diff_b"}
    assert len([key for key in keys if ".diff" in key]) == len(own)
