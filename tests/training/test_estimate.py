"""Estimates against what the real modules do, at tiny sizes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sama_video.models.presets import PRESETS
from sama_video.pipelines.loading import load_pipeline
from sama_video.system.errors import UserError
from sama_video.system.precision import choose_precision
from sama_video.training.config import LoraConfig
from sama_video.training.estimate import (
    activation_bytes,
    describe,
    estimate_memory,
    estimate_steps,
    find_model_size,
    training_flops,
)
from sama_video.training.optimizer import Optimizer
from sama_video.training.preparation import prepare_transformer
from sama_video.training.recipes import lora_finetuning, nano_finetuning, smoke
from tests import tiny

GRID, TEXT_TOKENS = (2, 16, 16), 24


def of_tiny(folder, **changes):
    config = smoke()[0].started_from(str(folder))
    return replace(config, model=replace(config.model, train_text_encoder=False, **changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny.pipeline(max_sequence_length=TEXT_TOKENS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def size(folder):
    return find_model_size(of_tiny(folder))


def forward(model, **streams):
    text = torch.randn(1, TEXT_TOKENS, tiny.TRANSFORMER["text_dim"])
    clip = torch.randn(1, 4, *GRID)
    return model(
        clip, timestep=torch.tensor([500.0]), encoder_hidden_states=text, source_hidden_states=clip, **streams
    ).sample


TOKENS = 2 * GRID[0] * (GRID[1] // 2) * (GRID[2] // 2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_arithmetic_is_what_torch_counts(size, checkpointing):
    model = tiny.transformer().train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward(model).square().mean().backward()
    estimate = training_flops(size, TOKENS, lora=False, checkpointing=checkpointing)
    # Embedders and the head are left out: they weigh more in a model as small as this one.
    assert 0.93 * counter.get_total_flops() < estimate < 1.02 * counter.get_total_flops()


def kept_bytes(model, in_bfloat16):
    """Of tensors that autograd keeps, without the weights and what autocast makes of them."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {parameter.numel() for parameter in model.parameters() if parameter.ndim == 2}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        is_cast_weight = tensor.dtype == torch.bfloat16 and storage.nbytes() // 2 in sizes and tensor.ndim == 2
        if storage.data_ptr() not in weights and not is_cast_weight:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16),
    ):
        forward(model)
    return sum(nbytes for nbytes, _ in kept.values())


@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize(("heads", "ffn"), [(2, 96), (3, 320)])
def test_a_block_keeps_as_much_for_the_backward_pass_as_estimated(size, heads, ffn, in_bfloat16):
    changes = {"num_attention_heads": heads, "attention_head_dim": 24, "ffn_dim": ffn}
    counted = [kept_bytes(tiny.transformer(num_layers=layers, **changes).train(), in_bfloat16) for layers in (2, 4)]
    block = replace(size, width=24 * heads, ffn_width=ffn, layers=1)
    estimate = activation_bytes(block, TOKENS, checkpointing=False, in_bfloat16=in_bfloat16)
    assert abs((counted[1] - counted[0]) / 2 / estimate - 1) < 0.12


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=3)])
@pytest.mark.parametrize("semantic_encoder", [None, "nano"])
def test_parameters_are_those_of_the_prepared_model(folder, lora, semantic_encoder):
    run = of_tiny(folder, lora=lora, semantic_encoder=semantic_encoder)
    pipe = tiny.pipeline()
    prepare_transformer(pipe, run.model, run.objective)
    found = find_model_size(run)
    assert found.parameters == sum(p.numel() for p in pipe.transformer.parameters())
    assert found.trained == sum(p.numel() for p in pipe.transformer.parameters() if p.requires_grad)
    assert found.encoder_bytes > 4 * sum(p.numel() for p in pipe.vae.parameters())


def test_a_text_encoder_that_trains_counts():
    weights = load_file(PRESETS["nano"].weights / "text_encoder" / "model.safetensors")
    both = PRESETS["nano"].num_parameters + sum(tensor.numel() for tensor in weights.values())
    assert find_model_size(nano_finetuning().started_from("nano")).parameters == both


def test_weights_beside_adapters_take_what_they_take(folder):
    run = of_tiny(folder, lora=LoraConfig(rank=3)).with_precision("bfloat16")
    pipe = tiny.pipeline()
    prepare_transformer(pipe, run.model, run.objective, precision="bfloat16")
    memory = estimate_memory(run, find_model_size(run), 1, estimate_steps(run, find_model_size(run), 1, 1e12))
    held = sum(parameter.nbytes for parameter in pipe.transformer.parameters())
    assert memory.optimizer > 0
    assert abs(memory.weights / held - 1) < 0.02  # biases and norms of a model as small as this one


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_an_optimizer_takes_what_it_takes(kind):
    """Of the nano's transformer, whose tensors are nearly all large enough for moments in 8 bits."""
    run = nano_finetuning().started_from("nano").changed(model={"train_text_encoder": False}, optimizer={"kind": kind})
    size = find_model_size(run)
    transformer = load_pipeline("nano", device="cpu", dtype="float32").transformer
    values = [value for state in Optimizer(transformer, run.optimizer).state().values() for value in state.values()]
    held = sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
    memory = estimate_memory(run, size, 1, estimate_steps(run, size, 1, 1e12))
    assert abs(memory.optimizer / held - 1) < 0.05


def test_a_block_hands_on_as_much_as_estimated():
    handed = []
    model = tiny.transformer()
    model.blocks[0].register_forward_hook(lambda *call: handed.append(call[-1]))
    for in_bfloat16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            forward(model)
    assert [out.element_size() for out in handed] == [4, 2]


def test_sharding_spreads_the_state_and_leaves_the_activations(folder, size):
    config = of_tiny(folder)
    alone, spread = (
        estimate_memory(config, size, devices, estimate_steps(config, size, devices, 1e12)) for devices in (1, 4)
    )
    assert spread.weights == alone.weights / 4
    assert spread.optimizer == alone.optimizer / 4
    assert spread.activations <= alone.activations
    lengths = {step.num_frames for step in estimate_steps(config, size, 1, 1e12)}
    assert lengths == {1, 9}


def test_describe_speaks_of_the_paper_sized_run_without_its_weights():
    config = lora_finetuning()
    sizeless = replace(config, model=replace(config.model, preset=None))
    with pytest.raises(UserError, match=r"model\.preset"):
        describe(sizeless, device="h100-80gb")
    text = "\n".join(describe(config, device="h100-80gb", num_devices=8))
    assert "8 x H100" in text
    assert "precision bfloat16" in text.splitlines()
    height, width = max(config.data.buckets(16).sizes, key=lambda side: side[0] * side[1])
    tokens = 65 + 2 * 21 * (height // 16) * (width // 16)
    assert f" 81 frames {width}x{height}: 4 samples x {tokens:,} tokens" in text
    with pytest.raises(UserError, match="unknown device"):
        describe(config, device="abacus")
    with pytest.raises(UserError, match="mfu"):
        describe(config, device="h100-80gb", mfu=0.0)


def test_sizes_are_those_of_buckets():
    """848x480, the size of 16:9 video, is none: its aspect ratio is not among the paper's."""
    config = lora_finetuning()
    steps = estimate_steps(config, find_model_size(config), 1, 1e12)
    assert {(step.height, step.width) for step in steps} <= set(config.data.buckets(16).sizes)


@pytest.mark.parametrize(("grid", "per_anchor"), [(4, 17), (8, 65)])
def test_a_picture_has_the_tokens_of_one_anchor(grid, per_anchor):
    config = lora_finetuning()
    config = replace(config, objective=replace(config.objective, num_anchors=3, semantic_grid=grid))
    for step in estimate_steps(config, find_model_size(config), 1, 1e12):
        plane = (step.height // 16) * (step.width // 16)
        anchors = 1 if step.num_frames == 1 else 3
        assert step.tokens_per_sample == per_anchor * anchors + 2 * ((step.num_frames - 1) // 4 + 1) * plane


def test_auto_is_what_the_device_is_fast_in(folder):
    run = of_tiny(folder)
    assert "precision bfloat16" in describe(run, device="h100-80gb")
    assert f"precision {choose_precision('cpu')}" in describe(run, peak_tflops=1.0)
