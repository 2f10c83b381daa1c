"""What works on stock diffusers' `WanPipeline` works on ours: the same calls on both, with the same tiny parts.

Without a source, a semantic stream and a prompt prefix, and with new parts at their start, ours IS Wan: the results
must be equal. Both sample with UniPC, whose timesteps are its own in both.

Deliberately otherwise (docs/library.md): an empty prompt, sizes and lengths that do not fit and a missing size are
refused here, where Wan's pipeline rounds them or takes a default.
"""

import copy
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    DiffusionPipeline,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    PipelineCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
)

from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.pipelines.pipeline_sama import SamaPipeline
from tests import tiny

STEPS = 4
WAN = {name: value for name, value in tiny.TRANSFORMER.items() if not name.startswith("semantic")}
CPU = torch.device("cpu")


def scheduler():
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


@cache
def made():
    """Ours and stock, of one set of weights."""
    parts = {**tiny.pipeline().components, "scheduler": scheduler()}
    torch.manual_seed(1)
    transformer = WanTransformer3DModel(**WAN).eval()
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
    ours = SamaTransformer3DModel(**tiny.TRANSFORMER).eval()
    ours.load_state_dict(transformer.state_dict(), strict=False)
    stock = WanPipeline(**parts | {"transformer": transformer})
    sama = SamaPipeline(
        **parts | {"transformer": ours}, prompt_prefix="", num_semantic_tokens=0, max_sequence_length=24
    )
    for pipe in (stock, sama):
        pipe.set_progress_bar_config(disable=True)
    return sama, stock


@pytest.fixture
def pipes():
    return tuple(copy.deepcopy(pipe) for pipe in made())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def arguments(**changes):
    same = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": STEPS, "max_sequence_length": 24}
    return same | {"prompt": "make it red", "guidance_scale": 5.0, "output_type": "latent"} | changes


def call(pipe, **changes):
    changes = arguments(**changes)
    return pipe(**{"generator": seeded()} | changes).frames


def embeds(batch=1, length=24, seed=5):
    return torch.randn(batch, length, 16, generator=seeded(seed))


# Callbacks


def seen_by_callback(pipe):
    """What a callback reads from the pipeline and from the tensors, with a trace of every step."""
    trace = []

    def callback(pipe, step, timestep, tensors):
        numbers = [step, pipe.num_timesteps, pipe.guidance_scale, float(pipe.do_classifier_free_guidance)]
        times = [pipe.current_timestep, timestep, pipe.scheduler.sigmas[step], pipe.scheduler.timesteps[step]]
        trace.append(torch.tensor([*numbers, *map(float, times), pipe.attention_kwargs["scale"], pipe.interrupt]))
        trace.extend(tensors[name].flatten() for name in sorted(tensors))
        return tensors

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    call(
        pipe,
        attention_kwargs={"scale": 1.0},
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    )
    assert pipe.current_timestep is None
    return torch.cat(trace)


def replaced_by_callback(pipe):
    def callback(_pipe, step, _timestep, tensors):
        scaled = {name: value * (1 + step / 10) for name, value in tensors.items()}
        return scaled | {"negative_prompt_embeds": embeds(seed=6)}

    names = ["latents", "prompt_embeds"]
    return call(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)


def interrupted(pipe):
    steps = []

    def callback(pipe, step, _timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return tensors

    stopped = call(pipe, callback_on_step_end=callback)
    assert steps == [0, 1]
    assert not torch.equal(stopped, call(pipe)), "the next call must run all its steps"
    return stopped


def interrupted_pictures(pipe):
    def callback(pipe, _step, _timestep, tensors):
        pipe._interrupt = True
        return tensors

    return call(pipe, output_type="pt", callback_on_step_end=callback)


class Halving(PipelineCallback):
    tensor_inputs = ("latents",)

    def callback_fn(self, _pipeline, _step_index, _timesteps, callback_kwargs):
        callback_kwargs["latents"] = callback_kwargs["latents"] / 2
        return callback_kwargs


def cutoff(**when):
    return SDCFGCutoffCallback(**{"cutoff_step_ratio": None} | when)


def guidance_cut_off(pipe):
    result = call(pipe, callback_on_step_end=cutoff(cutoff_step_index=1))
    assert pipe.guidance_scale == 0.0
    assert not torch.equal(result, call(pipe))
    return result


# LoRA


def lora(seed=0, name="blocks.0.attn1.to_q"):
    down, up = torch.randn(2, 48, generator=seeded(seed)), torch.randn(48, 2, generator=seeded(seed + 1))
    return {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}


def with_lora(change):
    def case(pipe):
        plain = call(pipe)
        pipe.load_lora_weights(lora(), adapter_name="one")
        loaded = call(pipe)
        assert not torch.equal(plain, loaded)
        return torch.cat([loaded, change(pipe)])

    return case


def lora_scaled_in_the_call(pipe):
    half = call(pipe, attention_kwargs={"scale": 0.5})
    pipe.set_adapters("one", 0.5)
    torch.testing.assert_close(half, call(pipe))
    return half


def lora_scaled_to_nothing(pipe):
    off = call(pipe, attention_kwargs={"scale": 0.0})
    pipe.disable_lora()
    torch.testing.assert_close(off, call(pipe))
    pipe.enable_lora()
    return off


def lora_fused(pipe):
    pipe.fuse_lora()
    fused = call(pipe)
    pipe.unfuse_lora()
    torch.testing.assert_close(fused, call(pipe), atol=1e-4, rtol=1e-4)
    return fused


def lora_unloaded(pipe):
    pipe.unload_lora_weights()
    assert not pipe.get_active_adapters()
    return call(pipe)


def two_loras(pipe):
    pipe.load_lora_weights(lora(2, "blocks.1.attn1.to_v"), adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.5, 0.25])
    assert pipe.get_list_adapters() == {"transformer": ["one", "two"]}
    mixed = call(pipe)
    pipe.delete_adapters("one")
    return torch.cat([mixed, call(pipe)])


def lora_saved(pipe, folder):
    pipe.save_lora_weights(folder, transformer_lora_layers={"blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 48)})
    assert (folder / "pytorch_lora_weights.safetensors").is_file()


# Lifecycle


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved_and_loaded(pipe, folder):
    pipe.save_pretrained(folder)
    return call(quiet(type(pipe).from_pretrained(folder)))


def loaded_by_the_general_class(pipe, folder):
    """Ours by the code that its folder brings: a class of the same name."""
    pipe.save_pretrained(folder)
    loaded = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded).__name__ == type(pipe).__name__
    return call(quiet(loaded))


def loaded_without_transformer(pipe, folder):
    pipe.save_pretrained(folder)
    loaded = type(pipe).from_pretrained(folder, transformer=None, vae=None)
    assert loaded.transformer is None
    positive, negative = loaded.encode_prompt("make it red", "blue", max_sequence_length=24)
    assert positive.dtype == loaded.text_encoder.dtype
    torch.testing.assert_close(pipe.encode_prompt("make it red", max_sequence_length=24)[0], positive)
    return torch.cat([positive, negative])


def loaded_without_text_encoder(pipe, folder):
    pipe.save_pretrained(folder)
    loaded = quiet(type(pipe).from_pretrained(folder, text_encoder=None, tokenizer=None))
    return call(loaded, prompt=None, prompt_embeds=embeds(), negative_prompt_embeds=embeds(seed=6))


def loaded_without_vae(pipe, folder):
    pipe.save_pretrained(folder)
    return call(quiet(type(pipe).from_pretrained(folder, vae=None)))


def loaded_with_another_part(pipe, folder):
    pipe.save_pretrained(folder)
    loaded = type(pipe).from_pretrained(folder, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert isinstance(loaded.scheduler, FlowMatchEulerDiscreteScheduler)
    return call(quiet(loaded), latents=torch.zeros(1, 4, 2, 4, 4))[:, :, :0]  # the schedules of Euler differ


def made_from_pipe(pipe):
    other = type(pipe).from_pipe(pipe)
    assert other.transformer is pipe.transformer
    return call(quiet(other))


def made_from_components(pipe):
    other = copy.deepcopy(pipe)
    assert set(other.components) >= {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"}
    settings = {"prompt_prefix": "", "num_semantic_tokens": 0} if isinstance(pipe, SamaPipeline) else {}
    return call(quiet(type(pipe)(**other.components, **settings)))


def pickled(pipe):
    call(pipe)
    return call(quiet(pickle.loads(pickle.dumps(pipe))))


def copied_after_a_call(pipe):
    call(pipe)
    return call(quiet(copy.deepcopy(pipe)))


def in_bfloat16(pipe):
    pipe.to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    result = call(pipe, output_type="np")
    assert result.dtype == np.float32
    assert np.abs(result - call(made()[isinstance(pipe, WanPipeline)], output_type="np")).mean() < 0.1
    return result.mean(axis=(1, 2, 3))


def with_slices_and_tiles(pipe):
    pipe.enable_attention_slicing()
    pipe.disable_attention_slicing()
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling(tile_sample_min_height=16, tile_sample_min_width=16)
    return call(pipe, output_type="pt", prompt=["make it red", "make it blue"])


def offloaded_by_model(pipe):
    pipe.enable_model_cpu_offload(device="cpu")
    first = call(pipe)
    torch.testing.assert_close(call(pipe), first)
    pipe.remove_all_hooks()
    return first


def offloaded_by_group(pipe):
    pipe.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    return call(pipe)


def offloaded_by_part(pipe):
    cpu_offload(pipe.transformer, execution_device=CPU)
    return call(pipe)


def with_fused_projections(pipe):
    pipe.transformer.fuse_qkv_projections()
    return call(pipe)


def with_an_attention_backend(pipe):
    pipe.transformer.set_attention_backend("native")
    return call(pipe)


def stored_in_eight_bits(pipe):
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return call(pipe)


def scheduler_swapped(pipe):
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=7.0, solver_order=1)
    swapped = call(pipe)
    assert pipe.scheduler.config.flow_shift == 7.0
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=3.0, solver_order=2)
    torch.testing.assert_close(call(pipe), call(made()[isinstance(pipe, WanPipeline)]))
    return swapped


def many_steps(pipe):
    """Rounded to whole numbers, the first two timesteps are the same."""
    pipe.scheduler.register_to_config(flow_shift=30.0)
    return call(pipe, num_inference_steps=40, guidance_scale=1.0)


def with_step_cache(make):
    def cached(pipe):
        config = make(pipe)
        plain = call(pipe, num_inference_steps=8)
        pipe.transformer.enable_cache(config)
        first = call(pipe, num_inference_steps=8)
        torch.testing.assert_close(call(pipe, num_inference_steps=8), first)  # nothing stays from call to call
        assert not torch.equal(plain, first)
        pipe.transformer.disable_cache()
        torch.testing.assert_close(call(pipe, num_inference_steps=8), plain)
        return first

    return cached


def pyramid_attention_broadcast(pipe):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=3,
        spatial_attention_timestep_skip_range=(100, 990),
        cross_attention_timestep_skip_range=(100, 990),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def taylor_seer(_):
    attention = [r"blocks\.\d+\.attn1"]
    return TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, cache_identifiers=attention)


def encoded(pipe):
    positive, negative = pipe.encode_prompt(["make it red", "make it blue"], "green", True, 2, None, None, 12, CPU)
    none = pipe.encode_prompt("make it red", do_classifier_free_guidance=False, max_sequence_length=24)[1]
    assert none is None
    half = pipe.encode_prompt("make it red", dtype=torch.bfloat16, device=CPU, max_sequence_length=12)[0]
    assert half.dtype == torch.bfloat16
    return torch.cat([positive, negative, half.float()])


def embeds_passed_on(pipe):
    positive, negative = pipe.encode_prompt("make it red", "blue", max_sequence_length=24)
    result = call(pipe, prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative)
    torch.testing.assert_close(result, call(pipe, negative_prompt="blue"))
    return result


def pictures(pipe):
    frames = call(pipe, output_type="pil")
    assert frames[0][0].size == (32, 32)
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in frames[0]])).float()


def as_tuple(pipe):
    result = pipe(**arguments(), generator=seeded(), return_dict=False)
    assert isinstance(result, tuple)
    return result[0]


def with_settings(**changes):
    return lambda pipe: call(pipe, **changes)


CASES = {
    "a prompt": call,
    "no guidance": with_settings(guidance_scale=1.0),
    "guidance of zero": with_settings(guidance_scale=0),
    "two prompts": with_settings(prompt=["make it red", "make it blue"]),
    "a negative prompt": with_settings(negative_prompt="blue"),
    "a negative prompt each": with_settings(prompt=["red", "blue"], negative_prompt=["green", "white"]),
    "one negative prompt for two": with_settings(prompt=["red", "blue"], negative_prompt="green"),
    "max_sequence_length": with_settings(max_sequence_length=7),
    "num_videos_per_prompt": with_settings(prompt=["red", "blue"], num_videos_per_prompt=2),
    "embeddings": with_settings(prompt=None, prompt_embeds=embeds(), negative_prompt_embeds=embeds(seed=6)),
    "embeddings without guidance": with_settings(prompt=None, prompt_embeds=embeds(), guidance_scale=1.0),
    "embeddings and a negative prompt": with_settings(prompt=None, prompt_embeds=embeds(), negative_prompt="blue"),
    "embeddings of two lengths": with_settings(
        prompt=None, prompt_embeds=embeds(), negative_prompt_embeds=embeds(length=9)
    ),
    "one negative embedding for two": with_settings(
        prompt=None, prompt_embeds=embeds(2), negative_prompt_embeds=embeds(seed=6)
    ),
    "embeddings, several videos": with_settings(
        prompt=None, prompt_embeds=embeds(), negative_prompt_embeds=embeds(seed=6), num_videos_per_prompt=2
    ),
    "generators": lambda pipe: call(pipe, prompt=["red", "blue"], generator=[seeded(1), seeded(2)]),
    "latents": with_settings(latents=torch.ones(1, 4, 2, 4, 4)),
    "latents in half precision": with_settings(latents=torch.ones(1, 4, 2, 4, 4, dtype=torch.bfloat16)),
    "other sizes": with_settings(height=48, width=64, num_frames=9),
    "one frame": with_settings(num_frames=1),
    "output np": with_settings(output_type="np"),
    "output pt": with_settings(output_type="pt"),
    "output pil": pictures,
    "return_dict=False": as_tuple,
    "encode_prompt": encoded,
    "encode_prompt, then the call": embeds_passed_on,
    "attention_kwargs without a LoRA": with_settings(attention_kwargs={"scale": 0.5, "other": 1}),
    "callback reads": seen_by_callback,
    "callback replaces": replaced_by_callback,
    "callback without tensors": with_settings(
        callback_on_step_end=lambda *_: {}, callback_on_step_end_tensor_inputs=[]
    ),
    "no callback, no tensors": with_settings(callback_on_step_end_tensor_inputs=None),
    "interrupt": interrupted,
    "interrupt, decoded": interrupted_pictures,
    "PipelineCallback": with_settings(callback_on_step_end=Halving()),
    "MultiPipelineCallbacks": with_settings(
        callback_on_step_end=MultiPipelineCallbacks([Halving(), cutoff(cutoff_step_index=2)])
    ),
    "SDCFGCutoffCallback": guidance_cut_off,
    "SDCFGCutoffCallback by ratio": with_settings(callback_on_step_end=cutoff(cutoff_step_ratio=0.5)),
    "LoRA": with_lora(call),
    "LoRA, attention_kwargs": with_lora(lora_scaled_in_the_call),
    "LoRA, scale 0": with_lora(lora_scaled_to_nothing),
    "LoRA, fused": with_lora(lora_fused),
    "LoRA, unloaded": with_lora(lora_unloaded),
    "two LoRAs": with_lora(two_loras),
    "save_lora_weights": lora_saved,
    "save_pretrained": saved_and_loaded,
    "DiffusionPipeline.from_pretrained": loaded_by_the_general_class,
    "transformer=None, vae=None": loaded_without_transformer,
    "text_encoder=None": loaded_without_text_encoder,
    "vae=None": loaded_without_vae,
    "scheduler=...": loaded_with_another_part,
    "from_pipe": made_from_pipe,
    "components": made_from_components,
    "pickle": pickled,
    "deepcopy": copied_after_a_call,
    "to(bfloat16)": in_bfloat16,
    "slices and tiles": with_slices_and_tiles,
    "enable_model_cpu_offload": offloaded_by_model,
    "enable_group_offload": offloaded_by_group,
    "cpu_offload": offloaded_by_part,
    "fuse_qkv_projections": with_fused_projections,
    "set_attention_backend": with_an_attention_backend,
    "enable_layerwise_casting": stored_in_eight_bits,
    "FirstBlockCache": with_step_cache(lambda _: FirstBlockCacheConfig(threshold=0.5)),
    "MagCache": with_step_cache(lambda _: MagCacheConfig(num_inference_steps=8, mag_ratios=[1.0] * 8)),
    "TaylorSeer": with_step_cache(taylor_seer),
    "PyramidAttentionBroadcast": with_step_cache(pyramid_attention_broadcast),
    "another scheduler": scheduler_swapped,
    "many steps": many_steps,
}
LOOSE = {"to(bfloat16)": 0.02, "output pil": 1.01}  # ours rounds timesteps to bfloat16, too; one level of 255


@pytest.mark.parametrize("name", CASES)
def test_works_as_in_stock(name, pipes, tmp_path):
    case = CASES[name]
    takes_folder = hasattr(case, "__code__") and "folder" in case.__code__.co_varnames
    results = [case(pipe, tmp_path / type(pipe).__name__) if takes_folder else case(pipe) for pipe in pipes]
    ours, stock = (torch.as_tensor(result) for result in results) if results[0] is not None else (CPU, CPU)
    if isinstance(ours, torch.Tensor):
        assert ours.shape == stock.shape
        tolerance = LOOSE.get(name, 2e-4)
        torch.testing.assert_close(ours, stock, atol=tolerance, rtol=tolerance)


REFUSED = {
    "no prompt": {"prompt": None},
    "prompt and embeddings": {"prompt_embeds": embeds()},
    "negative prompt and embeddings": {"negative_prompt": "a", "negative_prompt_embeds": embeds()},
    "a prompt that is no text": {"prompt": 5},
    "a height that does not fit": {"height": 40},
    "tensors that callbacks do not see": {"callback_on_step_end_tensor_inputs": ["noise"]},
    "a callback for other pipelines": {"callback_on_step_end": SDXLCFGCutoffCallback()},
    "too few negative prompts": {"prompt": ["red", "blue", "green"], "negative_prompt": ["white", "black"]},
    "too few generators": {"prompt": ["red", "blue"], "generator": [torch.Generator()]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_in_stock(name, pipes):
    for pipe in pipes:
        with pytest.raises(ValueError, match=r".{20}"):
            call(pipe, **REFUSED[name])


def test_xformers_is_asked_for_in_the_same_way(pipes):
    raised = []
    for pipe in pipes:
        try:
            pipe.enable_xformers_memory_efficient_attention()
        except Exception as error:
            raised.append(type(error))
        else:
            raised.append(None)
        pipe.disable_xformers_memory_efficient_attention()
    assert raised[0] is raised[1]


def test_stock_has_no_public_name_that_ours_lacks(pipes):
    ours, stock = ({name for name in dir(pipe) if not name.startswith("_")} for pipe in pipes)
    # Wan2.2's second transformer; and a helper for pixels, which here are prepared in other places.
    assert stock - ours <= {"transformer_2", "video_processor"}
