import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from sama_video.models.latents import encode_video
from sama_video.pipelines.pipeline_sama import SamaPipeline
from tests import tiny


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
        ({"video": np.full((5, 32, 48, 3), 255.0)}, "float frames must lie in 0..1"),
        ({"video": np.full((5, 32, 48, 3), np.nan)}, "float frames must lie in 0..1"),
        ({"video": "clip.mp4"}, "edit_video takes files"),
        ({"video": [np.zeros((32, 48, 3), np.uint8)]}, "a video is PIL images"),
        ({"video": []}, "no frames"),
        ({"video": [PIL.Image.new("RGB", size) for size in ((48, 32), (32, 32))]}, "several sizes"),
        ({"prompt": []}, "prompt is empty"),
        ({"flow_shift": 0.0}, "flow_shift must be above 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callbacks can see"),
        ({"latents": torch.zeros(1, 4, 2, 4, 4)}, "latents must be"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2 prompts"),
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
