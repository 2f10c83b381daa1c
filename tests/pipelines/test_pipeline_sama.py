import logging
import os

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback

from sama_video.models.autoencoder_sama_nano import AutoencoderSamaNano
from sama_video.models.latents import decode_latents, encode_video
from sama_video.models.shapes import LatentShape
from sama_video.models.source_memory import SourceMemories
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.system.errors import UserError
from tests import tiny

LATENTS = LatentShape(frames=2, height=4, width=6)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


def frames(num=5, height=32, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def run(pipe, seed=0, **changes):
    arguments = {"video": frames(), "prompt": "make it red", "num_inference_steps": 2} | changes
    return pipe(generator=torch.Generator().manual_seed(seed), **arguments)


def test_same_seed_same_bytes_other_seed_other_bytes(pipe):
    first, second, other = run(pipe), run(pipe), run(pipe, seed=1)
    assert first.frames.tobytes() == second.frames.tobytes()
    assert torch.equal(first.semantic_latents, second.semantic_latents)
    assert not np.array_equal(first.frames, other.frames)
    assert not torch.equal(first.semantic_latents, other.semantic_latents)


def test_video_as_pil_array_and_tensor_are_one(pipe):
    array = frames()
    pil = [PIL.Image.fromarray(frame) for frame in array]
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    expected = run(pipe, video=array).frames
    for video in (pil, tensor, tensor.float() / 255, array.astype(np.float32) / 255):
        np.testing.assert_allclose(run(pipe, video=video).frames, expected, atol=1e-4)


def test_output_types(pipe):
    array = run(pipe).frames
    assert array.shape == (1, 5, 32, 48, 3)
    assert array.min() >= 0
    assert array.max() <= 1
    tensor = run(pipe, output_type="pt").frames
    assert tensor.shape == (1, 5, 3, 32, 48)
    pil = run(pipe, output_type="pil").frames
    assert pil[0][0].size == (48, 32)
    assert np.array_equal(np.asarray(pil[0][3]), np.round(array[0, 3] * 255).astype(np.uint8))
    assert run(pipe, output_type="latent").frames.shape == (1, 4, 2, 4, 6)
    assert isinstance(run(pipe, return_dict=False), tuple)


@pytest.mark.parametrize("num", [1, 2, 5, 7])
def test_frames_added_to_reach_4k_plus_1_are_taken_off(pipe, num):
    assert run(pipe, video=frames(num)).frames.shape[1] == num


def test_text_to_video_without_a_source(pipe):
    result = run(pipe, video=None, height=32, width=32, num_frames=5)
    assert result.frames.shape == (1, 5, 32, 32, 3)


def test_a_source_may_come_as_latents_and_be_of_another_length(pipe):
    video = frames(5)
    pixels = pipe.prepare_video(video, None, None, None)
    size = {"video": None, "source_latents": encode_video(pipe.vae, pixels), "height": 32, "width": 48}
    np.testing.assert_array_equal(run(pipe, num_frames=5, **size).frames, run(pipe, video=video).frames)
    assert run(pipe, num_frames=9, **size).frames.shape == (1, 9, 32, 48, 3)
    with pytest.raises(ValueError, match="not both"):
        run(pipe, **size | {"video": video})


def test_two_prompts_for_one_video(pipe):
    both = run(pipe, prompt=["make it red", "make it blue"]).frames
    assert both.shape[0] == 2
    assert not np.array_equal(both[0], both[1])


def test_resizing_is_explicit(pipe):
    with pytest.raises(ValueError, match="pass height=32, width=48"):
        run(pipe, video=frames(height=30, width=50))
    assert run(pipe, video=frames(height=30, width=50), height=32, width=48).frames.shape[2:4] == (32, 48)


def test_guidance_off_ignores_the_negative_prompt(pipe):
    plain = run(pipe, guidance_scale=1.0).frames
    assert np.array_equal(plain, run(pipe, guidance_scale=1.0, negative_prompt="blue").frames)
    assert not np.array_equal(run(pipe).frames, run(pipe, negative_prompt="blue").frames)


def test_the_prefix_is_part_of_the_prompt():
    with_prefix, without = tiny.pipeline(), tiny.pipeline(prompt_prefix="")
    expected = without.encode_prompt("[Video edit] make it red", "[Video edit]")
    for actual, wanted in zip(with_prefix.encode_prompt("make it red"), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_text_beyond_its_end_is_zero(pipe):
    embeds, _ = pipe.encode_prompt("hi", do_classifier_free_guidance=False)
    valid = len(pipe.tokenizer(["[Video edit] hi"]).input_ids[0])
    assert embeds[0, valid:].abs().sum() == 0
    assert embeds[0, :valid].abs().sum() > 0


def test_unipc_goes_the_same_way_as_euler(pipe):
    other = tiny.pipeline()
    other.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    euler, unipc = (run(p, num_inference_steps=30).frames for p in (pipe, other))
    assert 0 < np.abs(euler - unipc).mean() < 0.02 < np.abs(euler - run(pipe, seed=1).frames).mean()


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchHeunDiscreteScheduler(),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
    ids=["heun", "dpm"],
)
def test_the_shift_reaches_other_schedulers(scheduler):
    pipe = tiny.pipeline()
    pipe.scheduler = scheduler
    sigmas = {shift: pipe.set_timesteps(8, shift, torch.device("cpu")) / 1000 for shift in (1.0, 4.0, 1.0)}
    expected = 4 * sigmas[1.0] / (1 + 3 * sigmas[1.0])
    torch.testing.assert_close(sigmas[4.0].float(), expected.float(), atol=2e-3, rtol=0)
    assert run(pipe).frames.shape == (1, 5, 32, 48, 3)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), UniPCMultistepScheduler()], ids=["ddim", "unipc"])
def test_schedulers_of_another_flow_are_refused(scheduler):
    pipe = tiny.pipeline()
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match="use flow-match Euler or Heun, or UniPC"):
        run(pipe)


def test_callbacks_see_and_change_both_streams(pipe):
    seen = []

    def callback(_pipe, step, _timestep, tensors):
        seen.append(step)
        assert tensors["semantic_latents"].shape == (1, 5, 12)
        return {"latents": torch.zeros_like(tensors["latents"])}

    result = run(
        pipe,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "semantic_latents"],
    )
    assert seen == [0, 1]
    assert result.frames.abs().sum() == 0


def test_batched_guidance_equals_sequential(monkeypatch):
    results = []
    for batched in (True, False):
        pipe = tiny.pipeline()
        monkeypatch.setattr(pipe, "_batches_guidance", lambda *_, batched=batched: batched)
        results.append(run(pipe).frames)
    np.testing.assert_allclose(*results, atol=1e-4)


def test_tiles_reach_source_and_result():
    pipe = tiny.pipeline()
    calls = {"encode": 0}
    encode = pipe.vae.encode

    def counting(*args, **kwargs):
        calls["encode"] += 1
        return encode(*args, **kwargs)

    pipe.vae.encode = counting
    video = frames(height=64, width=96)
    whole = run(pipe, video=video).frames
    pipe.enable_vae_tiling((4, 6), (3, 4))
    tiled = run(pipe, video=video).frames
    assert calls["encode"] == 1 + 3 * 3
    assert whole.shape == tiled.shape
    assert np.abs(whole - tiled).mean() < 0.2
    pipe.disable_vae_tiling()
    assert np.array_equal(run(pipe, video=video).frames, whole)


def test_diffusers_slicing_and_tiling_of_the_vae_work():
    pipe = tiny.pipeline()
    expected = run(pipe).frames
    pipe.vae.enable_slicing()
    assert np.array_equal(run(pipe).frames, expected)


def calls_of(pipe, monkeypatch):
    """Branches in the order in which the transformer is asked, and how many tokens its blocks see."""
    seen, predict = [], pipe._predict

    def counted(*arguments):
        seen.append((arguments[-1], []))
        return predict(*arguments)

    monkeypatch.setattr(pipe, "_predict", counted)
    hook = pipe.transformer.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen[-1][1].append(inputs[0].shape[1]) if seen else None
    )
    return seen, hook


def test_outside_of_its_interval_guidance_costs_nothing(pipe, monkeypatch):
    seen, hook = calls_of(pipe, monkeypatch)
    monkeypatch.setattr(pipe, "_batches_guidance", lambda *_: False)
    part = run(pipe, num_inference_steps=4, guidance_start=0.25, guidance_end=0.75).frames
    hook.remove()
    assert [branch for branch, _ in seen] == ["cond", "cond", "uncond", "cond", "uncond", "cond"]
    whole, none = (run(pipe, num_inference_steps=4, guidance_scale=scale).frames for scale in (None, 1.0))
    assert not np.array_equal(part, whole)
    assert not np.array_equal(part, none)
    assert np.array_equal(run(pipe, num_inference_steps=4, guidance_start=0.5, guidance_end=0.5).frames, none)


@pytest.mark.parametrize("batched", [True, False])
def test_the_source_is_left_out_between_refreshes(pipe, monkeypatch, batched):
    monkeypatch.setattr(pipe, "_batches_guidance", lambda *_: batched)
    exact = run(pipe, num_inference_steps=4).frames
    seen, hook = calls_of(pipe, monkeypatch)
    near = run(pipe, num_inference_steps=4, source_refresh=2).frames
    hook.remove()
    whole, short = 2 * 2 * 2 * 3 + 5, 2 * 2 * 3 + 5
    every = [whole, short, whole, short]
    assert [counts for _, counts in seen] == [[count] for count in every for _ in range(1 if batched else 2)]
    assert 0 < np.abs(near - exact).max() < 0.05


@pytest.mark.parametrize("prompts", ["make it red", ["make it red", "make it blue"]])
def test_a_source_that_sees_itself_alone_is_computed_once(monkeypatch, prompts):
    pipe = tiny.pipeline()
    pipe.transformer.register_to_config(source_attention="self")
    calls = []
    remember = pipe.transformer.remember_source
    monkeypatch.setattr(
        pipe.transformer, "remember_source", lambda *inputs: (calls.append(len(inputs[0])), remember(*inputs))
    )
    once = run(pipe, prompt=prompts, num_inference_steps=3).frames
    assert calls == [1]  # one row for all edits of the video
    monkeypatch.setattr(pipe, "_source_memories", lambda *_: SourceMemories())
    every_step = run(pipe, prompt=prompts, num_inference_steps=3).frames
    assert len(calls) == 1 + 3
    np.testing.assert_allclose(once, every_step, atol=1e-5)


def test_step_caches_and_left_out_sources_exclude_each_other():
    pipe = tiny.pipeline()
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="use one of them"):
        run(pipe, source_refresh=2)


def test_a_step_cache_reaches_edits_and_their_branches_apart():
    pipe = tiny.pipeline()
    plain = run(pipe, num_inference_steps=6).frames
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.3))
    cached = run(pipe, num_inference_steps=6).frames
    assert np.abs(cached - plain).max() > 0
    assert np.array_equal(run(pipe, num_inference_steps=6).frames, cached)


def test_known_frames_are_the_results_first(pipe):
    known = frames(5, seed=7)
    whole = {"video": frames(9), "num_inference_steps": 3, "output_type": "latent"}
    given = run(pipe, known_frames=known, **whole).frames
    encoded = encode_video(pipe.vae, pipe.prepare_video(known, None, None, None))
    torch.testing.assert_close(given[:, :, :2], encoded, rtol=0, atol=1e-4)
    free = run(pipe, **whole).frames
    assert not torch.allclose(given[:, :, 2], free[:, :, 2], atol=1e-3)  # what follows has seen them
    with pytest.raises(ValueError, match="fewer than the result's frames, got 5"):
        run(pipe, known_frames=known, num_inference_steps=3)


def test_group_offload_gives_the_same_picture(pipe):
    offloaded = tiny.pipeline()
    cpu = torch.device("cpu")
    offloaded.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    np.testing.assert_allclose(run(offloaded).frames, run(pipe).frames, atol=1e-5)


def test_model_offload_gives_the_same_picture(pipe):
    offloaded = tiny.pipeline()
    offloaded.enable_model_cpu_offload(device="cpu")  # the hooks that move modules, with nowhere else to move them
    assert np.array_equal(run(offloaded).frames, run(pipe).frames)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_sequential_offload_hooks_give_the_same_picture(part, pipe):
    offloaded = tiny.pipeline()
    cpu_offload(getattr(offloaded, part), execution_device=torch.device("cpu"))
    assert next(getattr(offloaded, part).parameters()).is_meta
    assert np.array_equal(run(offloaded).frames, run(pipe).frames)


def test_save_and_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = SamaPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.num_semantic_tokens == 5
    assert np.array_equal(run(loaded).frames, run(pipe).frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "either `prompt` or `prompt_embeds`"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"height": 33, "width": 48}, "height must divide by 16, got 33; use 32"),
        ({"num_frames": 4}, "got 4; use 1 or 5"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"output_type": "mp4"}, "output_type"),
        ({"video": None}, "give `height` and `width`"),
        ({"video": np.zeros((5, 32, 48))}, "a video is frames"),
        ({"video": np.full((5, 32, 48, 3), 255.0)}, "float frames must have values from 0 to 1"),
        ({"video": np.full((5, 32, 48, 3), np.nan)}, "float frames must have values from 0 to 1"),
        ({"video": "clip.mp4"}, "edit_video takes files"),
        ({"video": [np.zeros((32, 48, 3), np.uint8)]}, "a video is PIL images"),
        ({"video": []}, "no frames"),
        ({"video": [PIL.Image.new("RGB", size) for size in ((48, 32), (32, 32))]}, "several sizes"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": 5}, "`prompt` must be a string or a list of strings"),
        ({"negative_prompt": [5]}, "`negative_prompt` must be a string or a list of strings"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt must be at least 1"),
        ({"max_sequence_length": 0}, "max_sequence_length must be at least 1"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 24, 5)}, r"`prompt_embeds` must be \[B, L, 16\]"),
        ({"flow_shift": 0.0}, "flow_shift must be above 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callbacks can see"),
        ({"latents": torch.zeros(1, 4, 2, 4, 4)}, "latents must be"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2 prompts"),
        ({"guidance_start": 0.6, "guidance_end": 0.4}, "0 <= start <= end <= 1"),
        ({"guidance_end": 1.2}, "0 <= start <= end <= 1"),
        ({"source_refresh": 0}, "source_refresh must be a whole number of 1 or more, got 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        run(pipe, **change)


def test_without_a_text_encoder_embeddings_must_come():
    pipe = tiny.pipeline(text=False)
    with pytest.raises(ValueError, match="pass `prompt_embeds`"):
        run(pipe)
    embeds = torch.randn(1, 24, 16)
    result = run(pipe, prompt=None, prompt_embeds=embeds, negative_prompt_embeds=embeds * 0)
    assert result.frames.shape == (1, 5, 32, 48, 3)


def lora(seed=0, full=True):
    """A LoRA's state as training exports it: low-rank matrices, and the type embedding in full."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.randn(2, 48, generator=generator),
        "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.randn(48, 2, generator=generator),
        "transformer.type_embedding.weight": torch.randn(3, 48, generator=generator),
    }
    return state if full else {name: value for name, value in state.items() if ".lora_" in name}


@pytest.mark.parametrize("weight", [1.0, 0.6])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.5])
def test_a_lora_scale_in_the_call_is_that_of_set_adapters(weight, scale):
    pipe = tiny.pipeline()
    for number in (0, 1):
        pipe.load_lora_weights(lora(number), adapter_name=f"lora_{number}")
    names = ["lora_0", "lora_1"]
    pipe.set_adapters(names, [weight, 0.5])
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    expected = run(pipe, output_type="latent").frames
    scaled = run(pipe, output_type="latent", attention_kwargs={"scale": scale}).frames
    assert not torch.equal(scaled, expected)
    # Nothing of it stays behind.
    assert all(torch.equal(value, before[name]) for name, value in pipe.transformer.state_dict().items())
    assert torch.equal(run(pipe, output_type="latent").frames, expected)
    pipe.set_adapters(names, [weight * scale, 0.5 * scale])
    torch.testing.assert_close(scaled, run(pipe, output_type="latent").frames, atol=1e-5, rtol=1e-5)


def test_a_lora_scale_that_cannot_act_is_refused():
    pipe = tiny.pipeline()
    pipe.load_lora_weights(lora(full=False))
    cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    half = run(pipe, attention_kwargs={"scale": 0.5}).frames  # low-rank layers take it anywhere
    assert not np.array_equal(half, run(pipe).frames)
    for scale in (None, "1", float("nan")):
        with pytest.raises(ValueError, match=r"must be a number such as 0\.8"):
            run(pipe, attention_kwargs={"scale": scale})
    for offload in ("sequential", "group"):
        pipe = tiny.pipeline()
        pipe.load_lora_weights(lora())
        if offload == "sequential":
            cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
        else:
            cpu = torch.device("cpu")
            pipe.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
        with pytest.raises(ValueError, match="set its scale before offloading"):
            run(pipe, attention_kwargs={"scale": 0.5})
        assert run(pipe, attention_kwargs={"scale": 1}).frames.shape == (1, 5, 32, 48, 3)


def test_model_offload_takes_a_lora_scale():
    pipe = tiny.pipeline()
    pipe.load_lora_weights(lora())
    expected = run(pipe, attention_kwargs={"scale": 0.5}).frames
    pipe.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(run(pipe, attention_kwargs={"scale": 0.5}).frames, expected)


def test_guidance_ends_where_a_callback_cuts_it_off(pipe, monkeypatch):
    passes = []
    predict = pipe._predict
    monkeypatch.setattr(pipe, "_predict", lambda *streams: passes.append(len(streams[0])) or predict(*streams))
    monkeypatch.setattr(pipe, "_batches_guidance", lambda *_: False)
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    both = run(pipe, prompt=["red", "blue"], num_inference_steps=4, callback_on_step_end=callback).frames
    assert passes == [2, 2] * 2 + [2] * 2  # two passes of both edits in two steps, then one
    assert not pipe.do_classifier_free_guidance
    # Each edit keeps its prompt: the callback drops all rows but the last.
    latents = pipe.prepare_latents(2, LATENTS, torch.Generator().manual_seed(0))
    for index, prompt in enumerate(["red", "blue"]):
        noise = {"latents": latents[0][index : index + 1], "semantic_latents": latents[1][index : index + 1]}
        one = run(pipe, prompt=prompt, num_inference_steps=4, callback_on_step_end=callback, **noise).frames
        np.testing.assert_allclose(both[index], one[0], atol=1e-4)


def test_a_callback_cannot_turn_on_what_the_call_did_not_prepare(pipe):
    def guide(pipe, *_):
        pipe._guidance_scale = 5.0

    with pytest.raises(ValueError, match="no negative prompt"):
        run(pipe, guidance_scale=1.0, callback_on_step_end=guide)
    with pytest.raises(ValueError, match="latents for 1 of 2"):
        run(pipe, prompt=["a", "b"], callback_on_step_end=lambda *call: {"latents": call[3]["latents"][:1]})


def test_a_callback_can_change_the_strength_of_guidance(pipe):
    def weaken(pipe, *_):
        pipe._guidance_scale = 2.0

    weakened = run(pipe, num_inference_steps=4, callback_on_step_end=weaken).frames
    assert not np.array_equal(weakened, run(pipe, num_inference_steps=4).frames)


def test_interrupt_stops_an_edit_after_the_step(pipe):
    def stop(pipe, step, _timestep, _tensors):
        pipe._interrupt = step == 1

    steps = []
    stopped = run(pipe, num_inference_steps=5, callback_on_step_end=stop, output_type="latent")
    run(pipe, num_inference_steps=5, callback_on_step_end=lambda *call: steps.append(call[3]["latents"].clone()))
    assert torch.equal(stopped.frames, steps[1])
    assert stopped.semantic_latents.shape == (1, 5, 12)


def test_several_videos_per_prompt_have_noise_of_their_own(pipe):
    several = run(pipe, prompt=["red", "blue"], num_videos_per_prompt=2).frames
    assert several.shape == (4, 5, 32, 48, 3)
    assert not np.array_equal(several[0], several[1])
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    pair = pipe(video=frames(), prompt="red", num_inference_steps=2, num_videos_per_prompt=2, generator=generators)
    for index, seed in enumerate((3, 4)):
        np.testing.assert_allclose(pair.frames[index], run(pipe, seed=seed, prompt="red").frames[0], atol=1e-4)
    with pytest.raises(ValueError, match="1 generators for 2 results"):
        pipe(video=frames(), prompt="red", num_videos_per_prompt=2, generator=[torch.Generator()])
    with pytest.raises(ValueError, match="2 sources for 3 results"):
        run(
            pipe, video=None, height=32, width=48, num_frames=5, num_videos_per_prompt=3,
            source_latents=torch.zeros(2, 4, 2, 4, 6),
        )  # fmt: skip


def test_without_a_transformer_prompts_can_be_encoded_and_nothing_else(pipe):
    encoder = SamaPipeline(None, None, pipe.text_encoder, pipe.tokenizer, max_sequence_length=24)
    for actual, expected in zip(encoder.encode_prompt("red"), pipe.encode_prompt("red"), strict=True):
        assert torch.equal(actual, expected)
    with pytest.raises(ValueError, match="no transformer"):
        run(encoder)


def test_without_a_vae_latents_are_edited(pipe):
    without = SamaPipeline(**pipe.components | {"vae": None}, num_semantic_tokens=5, max_sequence_length=24)
    without.set_progress_bar_config(disable=True)
    source = encode_video(pipe.vae, pipe.prepare_video(frames(), None, None, None))
    size = {"video": None, "source_latents": source, "height": 32, "width": 48, "num_frames": 5}
    assert torch.equal(
        run(without, output_type="latent", **size).frames, run(pipe, output_type="latent", **size).frames
    )
    for change in (size, {"output_type": "latent"}):
        with pytest.raises(ValueError, match="no VAE"):
            run(without, **change)


@pytest.mark.parametrize(
    ("part", "weight", "message"),
    [
        ("transformer", "proj_out.weight", "the transformer gave values that are not numbers"),
        ("vae", "decoder.conv_out.weight", "the VAE gave"),
        ("vae", "encoder.conv_in.weight", "the VAE gave"),
        ("text_encoder", "encoder.final_layer_norm.weight", "the text encoder gave"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_an_error_and_no_black_picture(part, weight, message, value):
    pipe = tiny.pipeline()
    getattr(pipe, part).get_parameter(weight).data.view(-1)[0] = value
    with pytest.raises(UserError, match=f"{message}.*download or convert them again"):
        run(pipe)


def test_values_that_float16_cannot_hold_are_named_so():
    pipe = tiny.pipeline().to(torch.float16)
    pipe.transformer.proj_out.weight.data.fill_(6e4)
    with pytest.raises(UserError, match=r"the transformer .*float16 cannot hold its values; load .* in bfloat16"):
        run(pipe)


@pytest.mark.parametrize("name", ["latents", "semantic_latents", "source_latents", "prompt_embeds"])
def test_inputs_that_are_not_finite_are_refused(pipe, name):
    shapes = {"latents": (1, 4, 2, 4, 6), "semantic_latents": (1, 5, 12), "source_latents": (1, 4, 2, 4, 6)}
    change = {name: torch.full(shapes.get(name, (1, 24, 16)), float("nan"))}
    change |= {"prompt": None} if name == "prompt_embeds" else {}
    change |= {"video": None, "height": 32, "width": 48, "num_frames": 5} if name == "source_latents" else {}
    with pytest.raises(ValueError, match=f"`{name}` holds values that are not numbers"):
        run(pipe, **change)


def test_a_cast_warns_only_of_what_it_loses(caplog):
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        tiny.pipeline().to(torch.bfloat16)
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage()[:44] for record in caplog.records] == ["There are modules in SamaTransformer3DModel "]


def test_guidance_asks_for_memory_where_the_system_names_none(monkeypatch):
    """As on Windows, which has no `os.sysconf`."""
    pipe = tiny.pipeline()
    expected = run(pipe).frames
    monkeypatch.delattr(os, "sysconf")
    assert np.array_equal(run(pipe).frames, expected)
    assert pipe._batches_guidance(1000, torch.device("cpu"))
    assert not pipe._batches_guidance(10**10, torch.device("cpu"))


@pytest.mark.parametrize("num", [5, 7])
def test_a_decoder_that_sees_the_source_is_given_what_was_edited(num):
    pipe = tiny.pipeline()
    torch.manual_seed(0)
    pipe.vae = AutoencoderSamaNano(z_dim=4, decoder_width=8, decoder_layers=1, source_width=8, source_layers=1).eval()
    video = frames(num)
    latents = run(pipe, video=video, output_type="latent").frames
    pixels = pipe.prepare_video(video, None, None, None)
    expected = decode_latents(pipe.vae, latents, source=pixels)[:, :, :num]
    assert not torch.equal(expected, decode_latents(pipe.vae, latents)[:, :, :num])
    decoded = run(pipe, video=video, output_type="pt").frames
    torch.testing.assert_close(decoded.transpose(1, 2) * 2 - 1, expected, rtol=0, atol=1e-5)
    several = run(pipe, video=video, prompt=["make it red", "make it green"], output_type="pt").frames
    assert several.shape == (2, num, 3, 32, 48)
