import json

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from sama_video.conversion import convert_files
from sama_video.errors import UserError
from sama_video.models.checkpoint_files import read_state_dict
from sama_video.models.convert_checkpoint import (
    load_official_text_encoder,
    load_official_transformer,
    load_official_vae,
    official_text_encoder_state,
    official_transformer_state,
    official_vae_state,
)
from sama_video.models.lora_namings import convert_lora_state
from sama_video.models.presets import PRESETS
from sama_video.models.transformer_sama import SamaTransformer3DModel
from tests.golden import FOLDER, index

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


def test_damaged_files_and_pickles(tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(DIT.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(cut)

    class Evil:
        def __reduce__(self):
            return (print, ("gotcha",))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"holds other objects than tensors \(print\)"):
        read_state_dict(tmp_path / "evil.pth")
    with pytest.raises(UserError, match="no weights"):
        read_state_dict(tmp_path / "nothing.safetensors")


def test_a_pipeline_folder_and_back(tmp_path):
    from sama_video.pipelines.pipeline_sama import SamaPipeline

    convert_files(DIT, tmp_path / "pipe", vae=VAE, text_encoder=T5, num_attention_heads=HEADS)
    pipe = SamaPipeline.from_pretrained(tmp_path / "pipe")
    assert pipe.config.prompt_prefix == "[Video edit] "
    convert_files(tmp_path / "pipe", tmp_path / "official", to="official")
    assert equal(load_file(tmp_path / "official" / "sama.safetensors"), load_file(DIT))
    assert equal(load_file(tmp_path / "official" / "Wan2.1_VAE.safetensors"), load_file(VAE))
    with pytest.raises(UserError, match="exists"):
        convert_files(DIT, tmp_path / "pipe", num_attention_heads=HEADS)


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


def test_an_original_wan_folder(tmp_path):
    wan = tmp_path / "Wan2.1-T2V"
    wan.mkdir()
    state = {k: v for k, v in load_file(DIT).items() if not k.startswith(("segment", "siglip", "semantic"))}
    save_file(state, wan / "diffusion_pytorch_model-00001-of-00001.safetensors")
    torch.save(load_file(VAE), wan / "Wan2.1_VAE.pth")
    torch.save(load_file(T5), wan / "models_t5_umt5-xxl-enc-bf16.pth")
    convert_files(wan, tmp_path / "pipe", num_attention_heads=HEADS)
    assert (tmp_path / "pipe" / "model_index.json").is_file()
    assert (tmp_path / "pipe" / "text_encoder").is_dir()


def lora(prefix="", down="lora_A.default", up="lora_B.default"):
    g = torch.Generator().manual_seed(0)
    return {
        f"{prefix}blocks.{i}.self_attn.q.{name}.weight": torch.randn(*shape, generator=g)
        for i in range(2)
        for name, shape in ((down, (2, 96)), (up, (96, 2)))
    }


@pytest.mark.parametrize(
    "layout",
    [{}, {"prefix": "diffusion_model.", "down": "lora_A", "up": "lora_B"}, {"down": "lora_down", "up": "lora_up"}],
)
def test_lora_layouts_give_the_same_adapter(layout):
    state = convert_lora_state(lora(**layout))
    assert equal(state, convert_lora_state(lora()))
    assert "transformer.blocks.1.attn1.to_q.lora_A.weight" in state
    assert equal(convert_lora_state(state), state)


def test_lora_alpha_and_unknown_modules():
    scaled = convert_lora_state(lora() | {"blocks.0.self_attn.q.alpha": torch.tensor(1.0)})
    plain = convert_lora_state(lora())
    key = "transformer.blocks.0.attn1.to_q.lora_B.weight"
    torch.testing.assert_close(scaled[key], plain[key] * 0.5)
    with pytest.raises(UserError, match=r"unknown: blocks\.0\.nothing"):
        convert_lora_state(lora() | {"blocks.0.nothing.lora_A.weight": torch.zeros(2, 96)})
    assert index()["configs"]["tiny24"]["dit"]["dim"] == 96


def test_a_lora_changes_a_pipeline(tmp_path):
    from sama_video.pipelines.loading import load_pipeline

    convert_files(DIT, tmp_path / "pipe", vae=VAE, num_attention_heads=HEADS)
    save_file(lora(), tmp_path / "lora.safetensors")
    convert_files(tmp_path / "lora.safetensors", tmp_path / "converted.safetensors")
    torch.manual_seed(0)
    x = torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0]), torch.ones(1, 3, 40)
    outputs = []
    for entries in ([], ["lora.safetensors"], ["converted.safetensors"], ["lora.safetensors:0.0"]):
        pipe = load_pipeline(str(tmp_path / "pipe"), lora=[f"{tmp_path}/{entry}" for entry in entries])
        with torch.no_grad():
            outputs.append(pipe.transformer(*x).sample)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4
    torch.testing.assert_close(outputs[1], outputs[2])
    torch.testing.assert_close(outputs[0], outputs[3])


def test_overwrite_replaces_a_model_and_nothing_else(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.txt").write_text("not a model")
    with pytest.raises(UserError, match="holds no model"):
        convert_files(DIT, folder, num_attention_heads=HEADS, overwrite=True)
    convert_files(DIT, tmp_path / "model", num_attention_heads=HEADS)
    (tmp_path / "model" / "stale").write_text("")
    convert_files(DIT, tmp_path / "model", num_attention_heads=HEADS, overwrite=True)
    assert not (tmp_path / "model" / "stale").exists()
    with pytest.raises(UserError, match="holds what is converted"):
        convert_files(tmp_path / "model", tmp_path / "model", overwrite=True)
    assert (folder / "holiday.txt").exists()


@pytest.mark.parametrize(
    ("options", "pair"),
    [
        ({"to": "official"}, "--to official has no effect with a LoRA"),
        ({"dtype": "bfloat16"}, "--dtype has no effect with a LoRA"),
        ({"vae": VAE}, "--vae has no effect with a LoRA"),
        ({"to": "official", "merge_into": "nano"}, "--to official has no effect with --merge-into"),
    ],
)
def test_options_that_a_lora_does_not_take(options, pair, tmp_path):
    save_file(lora(), tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=pair):
        convert_files(tmp_path / "lora.safetensors", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
