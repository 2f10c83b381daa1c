"""Transformer, VAE and text encoder against tensors recorded from the official release."""

import pytest
import torch
import torch.nn.functional as F

from sama_video.models.convert_checkpoint import (
    load_official_text_encoder,
    load_official_transformer,
    load_official_vae,
)
from sama_video.models.latents import Tiling, decode_latents, encode_video, video_to_model_range
from tests.golden import case, float_weights, index, relative_error

FORWARDS = ("A1_same_grid", "A2_other_source_grid", "A3_batch2", "A4_no_semantic", "A5_no_source", "A6_hd128")


def golden_transformer(golden, folder):
    config = index()["configs"][golden.info["config"]]
    path = float_weights(config["weights"], folder)
    return load_official_transformer(path, num_attention_heads=config["dit"]["num_heads"])


def run(model, golden):
    return model(
        golden["in.latents"],
        timestep=golden["in.timestep"],
        encoder_hidden_states=golden["in.context"],
        source_hidden_states=golden.get("in.source_latents"),
        semantic_hidden_states=golden.get("in.semantic_latents"),
    )


@pytest.mark.parametrize("name", FORWARDS)
def test_forward(name, tmp_path):
    golden = case(name)
    model = golden_transformer(golden, tmp_path)
    with torch.no_grad():
        output = run(model, golden)
    assert relative_error(output.sample, golden["out.velocity"]) < 1e-4
    if "in.semantic_latents" in golden.tensors:
        assert relative_error(output.semantic, golden["out.semantic_pred"]) < 1e-4
    else:
        assert output.semantic is None


@pytest.mark.parametrize("name", ["A1_same_grid", "A6_hd128"])
def test_gradients_of_the_objective(name, tmp_path):
    golden = case(name)
    model = golden_transformer(golden, tmp_path)
    output = run(model, golden)
    flow = F.mse_loss(output.sample, golden["in.velocity_target"])
    semantic = F.l1_loss(output.semantic, golden["in.semantic_target"])
    loss = flow + 0.1 * semantic
    assert relative_error(loss.detach().view(1), golden["out.loss_total"]) < 1e-4
    loss.backward()
    pairs = {
        "grad.segment_embedding.weight": model.type_embedding.weight,
        "grad.blocks.0.modulation": model.blocks[0].scale_shift_table,
        "grad.siglip_feat_mlp.norm.weight": model.semantic_projector.norm.weight,
        "grad.head.modulation": model.scale_shift_table,
    }
    for key, parameter in pairs.items():
        grad = parameter.grad.view_as(golden[key])
        assert relative_error(grad, golden[key]) < 1e-3, key


def test_text_encoder(tmp_path):
    golden = case("D1_t5")
    model = load_official_text_encoder(float_weights("t5_weights.safetensors", tmp_path))
    with torch.no_grad():
        hidden = model(golden["in.ids"], attention_mask=golden["in.mask"]).last_hidden_state
    assert relative_error(hidden * golden["in.mask"].unsqueeze(-1), golden["out.context"]) < 1e-4
    valid = golden["in.mask"].bool()
    assert relative_error(hidden[valid], golden["out.hidden"][valid]) < 1e-4


@pytest.mark.parametrize("name", ["C1_vae_9f_64x64", "C2_vae_tiled_5f_64x96", "C3_vae_image_1f"])
def test_vae_without_tiling(name, tmp_path):
    golden = case(name)
    vae = load_official_vae(float_weights("vae_dim8_weights.safetensors", tmp_path))
    video = video_to_model_range(golden["in.video_uint8"])
    with torch.no_grad():
        latents = encode_video(vae, video)
        decoded = decode_latents(vae, golden["in.latents"])
    assert relative_error(latents, golden["out.latents"]) < 1e-4
    assert relative_error(decoded, golden["out.decoded_unclamped"].clamp(-1, 1)) < 1e-4


def test_vae_with_the_releases_tiles(tmp_path):
    golden = case("C2_vae_tiled_5f_64x96")
    vae = load_official_vae(float_weights("vae_dim8_weights.safetensors", tmp_path))
    tiling = Tiling(size=tuple(golden.info["case"]["tile_size"]), stride=tuple(golden.info["case"]["tile_stride"]))
    with torch.no_grad():
        latents = encode_video(vae, video_to_model_range(golden["in.video_uint8"]), tiling)
        decoded = decode_latents(vae, golden["in.latents"], tiling)
    assert relative_error(latents, golden["out.latents_tiled"]) < 1e-4
    assert relative_error(decoded, golden["out.decoded_tiled"]) < 1e-4
