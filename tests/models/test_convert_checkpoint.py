import json

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from sama_video.models.convert_checkpoint import (
    load_official_text_encoder,
    load_official_transformer,
    load_official_vae,
    official_text_encoder_state,
    official_transformer_state,
    official_vae_state,
)
from sama_video.models.presets import PRESETS
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.pipelines.conversion import convert_files
from sama_video.system.errors import UserError
from tests.golden import FOLDER

DIT = FOLDER / "dit_tiny24_weights.safetensors"
VAE = FOLDER / "vae_dim8_weights.safetensors"
T5 = FOLDER / "t5_weights.safetensors"
HEADS = 4


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_round_trips_to_the_official_names():
    assert equal(official_transformer_state(load_official_transformer(DIT, HEADS)), load_file(DIT))
    assert equal(official_vae_state(load_official_vae(VAE)), load_file(VAE))
    assert equal(official_text_encoder_state(load_official_text_encoder(T5)), load_file(T5))


@pytest.mark.parametrize(("preset", "name"), [("wan2.1-14b", "14B"), ("wan2.1-1.3b", "1.3B")])
def test_presets_have_the_releases_keys_shapes_and_counts(preset, name):
    expected = json.loads((FOLDER / "state_dict_keys.json").read_text())[name]
    layers = PRESETS[preset].transformer["num_layers"]
    shapes = {}
    for pattern, shape in expected["patterns"].items():
        for layer in range(layers if "{i}" in pattern else 1):
            shapes[pattern.replace("{i}", str(layer))] = shape
    with init_empty_weights():
        model = SamaTransformer3DModel(**PRESETS[preset].transformer)
    state = official_transformer_state(model)
    assert {key: list(value.shape) for key, value in state.items()} == shapes
    assert sum(value.numel() for value in state.values()) == expected["total_params"] == PRESETS[preset].num_parameters


def test_presets_count_their_parameters():
    for preset in PRESETS.values():
        with init_empty_weights():
            model = SamaTransformer3DModel(**preset.transformer)
        assert sum(parameter.numel() for parameter in model.parameters()) == preset.num_parameters


def test_bf16_shards_and_pytorch_files(tmp_path):
    state = {key: value.bfloat16() for key, value in load_file(DIT).items()}
    keys = sorted(state)
    (tmp_path / "shards").mkdir()
    save_file({key: state[key] for key in keys[::2]}, tmp_path / "shards" / "a-00001-of-00002.safetensors")
    save_file({key: state[key] for key in keys[1::2]}, tmp_path / "shards" / "a-00002-of-00002.safetensors")
    torch.save(state, tmp_path / "model.pth")
    for path in (tmp_path / "shards", tmp_path / "model.pth"):
        model = load_official_transformer(path, HEADS)
        assert model.proj_out.weight.dtype == torch.bfloat16
        assert equal(official_transformer_state(model), state)


def test_plain_wan_starts_with_new_parts(tmp_path):
    state = {k: v for k, v in load_file(DIT).items() if not k.startswith(("segment", "siglip", "semantic"))}
    torch.save(state, tmp_path / "plain.pth")
    model = load_official_transformer(tmp_path / "plain.pth", HEADS)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert model.type_embedding.weight.abs().sum() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.ffn.2.bias"), "missing: blocks.1.ffn.net.2.bias"),
        (lambda s: s.update({"blocks.0.extra": torch.zeros(1)}), "unknown: blocks.0.extra"),
        (lambda s: s.update({"head.head.bias": torch.zeros(7)}), r"misshapen: proj_out.bias \(7,\) instead of"),
        (lambda s: s.pop("segment_embedding.weight"), "missing: type_embedding.weight"),
        (lambda s: s.pop("patch_embedding.weight"), "missing: patch_embedding.weight"),
    ],
)
def test_strict(change, message, tmp_path):
    state = load_file(DIT)
    change(state)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=message):
        convert_files(tmp_path / "bad.safetensors", tmp_path / "out", num_attention_heads=HEADS)
    assert not (tmp_path / "out").exists()


def test_wrong_heads_and_other_architectures():
    with pytest.raises(UserError, match="does not split into"):
        load_official_transformer(DIT)
    with pytest.raises(UserError, match="not a Wan VAE"):
        load_official_vae(T5)
    with pytest.raises(UserError, match="not a UMT5"):
        load_official_text_encoder(VAE)


def test_wan_2_2_vae(tmp_path):
    """Names of Wan2.2's VAE: levels nested, a level's resampling after its two (encoder) or three (decoder) blocks."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, decoder_base_dim=16, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
    ).eval()  # fmt: skip
    state = official_vae_state(vae)
    assert "encoder.downsamples.0.downsamples.2.resample.1.weight" in state
    assert "decoder.upsamples.0.upsamples.3.time_conv.weight" in state
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "vae.safetensors")
    loaded = load_official_vae(tmp_path / "vae.safetensors")
    assert loaded.config.scale_factor_spatial == 16
    assert loaded.config.latents_std[-1] == 0.7744
    assert equal(loaded.state_dict(), vae.state_dict())


def test_the_shipped_model_under_the_official_names(tmp_path):
    nano = PRESETS["nano"]
    convert_files(nano.weights, tmp_path / "official", to="official")
    assert not list((tmp_path / "official").glob("*VAE*"))
    loaded = load_official_transformer(
        tmp_path / "official" / "sama.safetensors", nano.transformer["num_attention_heads"]
    )
    shipped = load_file(nano.weights / "transformer" / "diffusion_pytorch_model.safetensors")
    assert loaded.state_dict().keys() == shipped.keys()
    assert all(torch.equal(value.half(), shipped[key]) for key, value in loaded.state_dict().items())
