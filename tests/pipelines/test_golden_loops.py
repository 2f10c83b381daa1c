"""The whole sampling loop and the schedule against tensors recorded from the official release."""

import numpy as np
import pytest
import torch

from sama_video.models.convert_checkpoint import load_official_transformer, load_official_vae
from sama_video.pipelines.pipeline_sama import SamaPipeline, clean_prompt
from tests.golden import case, float_weights, index, relative_error


def golden_pipeline(golden, folder, dtype=torch.float32):
    config = index()["configs"][golden.info["config"]]
    transformer = load_official_transformer(
        float_weights(config["weights"], folder), num_attention_heads=config["dit"]["num_heads"]
    )
    vae = load_official_vae(float_weights(golden.info["vae_weights"], folder))
    pipe = SamaPipeline(transformer.to(dtype), vae.to(dtype))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, golden, **kwargs):
    settings = golden.info["case"]
    if settings["tiled"]:
        pipe.enable_vae_tiling(settings["tile_size"], settings["tile_stride"])
    return pipe(
        video=golden["in.video_uint8"].numpy(),
        prompt_embeds=golden["in.context_pos"],
        negative_prompt_embeds=golden["in.context_neg"],
        latents=golden["in.noise"],
        semantic_latents=golden["in.semantic_noise"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["cfg_scale"],
        flow_shift=settings["shift"],
        **kwargs,
    )


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", ["B1_loop_8step_cfg5", "B2_loop_4step_tiled"])
def test_loop(name, batched, tmp_path, monkeypatch):
    golden = case(name)
    pipe = golden_pipeline(golden, tmp_path)
    monkeypatch.setattr(pipe, "_batches_guidance", lambda *_: batched)
    steps = []

    def keep(_pipe, _index, _timestep, tensors):
        steps.append({name: tensor.clone() for name, tensor in tensors.items()})
        return {}

    output = run(
        pipe,
        golden,
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["latents", "semantic_latents"],
    )
    for index_, step in enumerate(steps):
        assert relative_error(step["latents"], golden["step.latents"][index_]) < 1e-4
        expected = golden["step.semantic_latents_tok0to3"][index_]
        assert relative_error(step["semantic_latents"][:, :4], expected) < 1e-4
    assert relative_error(steps[-1]["latents"], golden["out.latents"]) < 1e-4
    assert relative_error(output.semantic_latents, golden["out.semantic_latents"]) < 1e-4
    # The release truncates to uint8, we round: at most one level apart, plus one where float error crosses a level.
    difference = np.abs((output.frames[0] * 255).astype(np.uint8).astype(int) - golden["out.video_uint8"].numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    if "out.video_float" in golden.tensors:
        video = torch.from_numpy(output.frames[0]).permute(3, 0, 1, 2)[None] * 2 - 1
        assert relative_error(video, golden["out.video_float"]) < 1e-4


def test_loop_in_bfloat16(tmp_path):
    golden = case("B3_loop_bf16")
    output = run(golden_pipeline(golden, tmp_path, torch.bfloat16), golden, output_type="latent")
    assert (output.frames - golden["out.latents"].float()).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["n8.shift5.0", "n50.shift5.0", "n30.shift3.0"])
def test_schedule(name, tmp_path):
    golden = case("S1_scheduler")
    steps, shift = int(name.split(".")[0][1:]), float(name.split("shift")[1])
    pipe = golden_pipeline(case("B1_loop_8step_cfg5"), tmp_path)
    timesteps = pipe.set_timesteps(steps, shift, torch.device("cpu"))
    sigmas = pipe.scheduler.sigmas
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1], golden[f"sigmas.{name}"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(timesteps, golden[f"timesteps.{name}"], rtol=1e-6, atol=1e-4)
    rounded = timesteps.to(torch.bfloat16).float()
    torch.testing.assert_close(rounded, golden[f"timesteps_bf16_as_f32.{name}"], rtol=0, atol=0)
    sample, velocity = golden[f"step.{name}.sample"], golden[f"step.{name}.model_output"]
    first = pipe.scheduler.step(velocity, timesteps[0], sample, return_dict=False)[0]
    assert relative_error(first, golden[f"step.{name}.first"]) < 1e-4
    pipe.scheduler._step_index = steps - 1
    last = pipe.scheduler.step(velocity, timesteps[-1], sample, return_dict=False)[0]
    assert relative_error(last, golden[f"step.{name}.last"]) < 1e-4


def test_prompt_cleaning():
    for text, cleaned in index()["cases"]["M1_misc"]["text_clean"].items():
        assert clean_prompt(text) == cleaned
