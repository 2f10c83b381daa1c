import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from sama_video.models.semantic_encoder import SemanticEncoder
from sama_video.system.errors import UserError

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}


def vision_model(**changes):
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**(VISION | changes)))


def frames(num_frames=2, height=48, width=80):
    return torch.randint(0, 256, (num_frames, height, width, 3), generator=torch.Generator().manual_seed(1)).byte()


@torch.no_grad()
def test_one_token_a_patch_and_the_global_one_last():
    encoder = SemanticEncoder(vision_model())
    tokens = encoder(frames())
    assert tokens.shape == (2, 65, 32)
    output = encoder.vision_model(encoder.preprocess(frames()))
    torch.testing.assert_close(tokens[:, :64], output.last_hidden_state)
    torch.testing.assert_close(tokens[:, 64], output.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("num_local_tokens", [1, 4, 16])
def test_local_tokens_are_means_of_their_cells(num_local_tokens):
    model = vision_model()
    fine, coarse = SemanticEncoder(model), SemanticEncoder(model, num_local_tokens=num_local_tokens)
    side = round(num_local_tokens**0.5)
    cells = fine(frames())[:, :64].view(2, side, 8 // side, side, 8 // side, 32)
    tokens = coarse(frames())
    assert tokens.shape[1] == coarse.num_tokens == num_local_tokens + 1
    torch.testing.assert_close(tokens[:, :-1].view(2, side, side, 32), cells.mean(dim=(2, 4)))


def test_patches_that_do_not_divide():
    assert SemanticEncoder(vision_model(image_size=72))(frames()).shape == (2, 65, 32)


def test_frames_do_not_see_each_other():
    encoder = SemanticEncoder(vision_model())
    torch.testing.assert_close(encoder(frames(3))[1:2], encoder(frames(3)[1:2]))


def test_white_is_one_and_black_minus_one():
    encoder = SemanticEncoder(vision_model())
    for level, expected in ((0, -1.0), (255, 1.0)):
        pixels = encoder.preprocess(torch.full((1, 30, 50, 3), level, dtype=torch.uint8))
        torch.testing.assert_close(pixels, torch.full((1, 3, 64, 64), expected))


def test_frozen():
    encoder = SemanticEncoder(vision_model().train())
    assert not encoder.vision_model.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(frames()).requires_grad


@pytest.fixture
def whole_checkpoint(tmp_path):
    torch.manual_seed(3)
    model = SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT))
    model.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole", model


@pytest.fixture
def heard():
    """What transformers logs reaches `caplog`."""
    transformers.utils.logging.enable_propagation()
    yield
    transformers.utils.logging.disable_propagation()


@pytest.mark.usefixtures("heard")
def test_the_vision_half_of_a_whole_checkpoint(whole_checkpoint, tmp_path, caplog):
    folder, model = whole_checkpoint
    model.vision_model.save_pretrained(tmp_path / "half")
    expected = SemanticEncoder(model.vision_model)(frames())
    torch.testing.assert_close(SemanticEncoder.from_pretrained(folder)(frames()), expected)
    assert "UNEXPECTED" not in caplog.text
    torch.testing.assert_close(SemanticEncoder.from_pretrained(tmp_path / "half")(frames()), expected)


def test_statistics_of_the_checkpoints_own_preprocessor(whole_checkpoint):
    folder, _ = whole_checkpoint
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [0.25] * 3}))
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    assert SemanticEncoder.from_pretrained(folder).preprocess(white).allclose(torch.tensor(4.0))


def test_other_models_and_missing_weights_are_refused(whole_checkpoint, tmp_path):
    folder, _ = whole_checkpoint
    with pytest.raises(UserError, match=r"no config\.json"):
        SemanticEncoder.from_pretrained(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "post_layernorm" not in k}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"missing: post_layernorm\.bias, post_layernorm\.weight"):
        SemanticEncoder.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(UserError, match="fixed-resolution"):
        SemanticEncoder.from_pretrained(folder)


def test_models_that_cannot_do_it():
    with pytest.raises(UserError, match="4x4 patches, too few for 64"):
        SemanticEncoder(vision_model(image_size=32))
    with pytest.raises(UserError, match="no pooling head"):
        SemanticEncoder(vision_model(vision_use_head=False))
    with pytest.raises(ValueError, match="square"):
        SemanticEncoder(vision_model(), num_local_tokens=60)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, key: s.update({key + "x": s.pop(key)}), "unknown: .*biasx; missing: "),
        (lambda s, key: s.update({key: s[key][None]}), "misshapen: "),
        (lambda s, key: s.update({key: s[key].to(torch.int32)}), "not floating-point: .*I32"),
        (lambda s, key: s[key].fill_(float("nan")), "no finite numbers"),
    ],
)
def test_wrong_weights_are_named(change, words, whole_checkpoint):
    folder, model = whole_checkpoint
    for source in (model, model.vision_model):
        source.save_pretrained(folder)
        state = load_file(folder / "model.safetensors")
        change(state, next(key for key in sorted(state) if key.endswith("post_layernorm.bias")))
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=words):
            SemanticEncoder.from_pretrained(folder)


def test_the_text_half_and_its_numbers_do_not_matter(whole_checkpoint):
    folder, model = whole_checkpoint
    state = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(state) if key.startswith("text_model"))
    save_file(state | {key: state[key].to(torch.int32)}, folder / "model.safetensors", {"format": "pt"})
    expected = SemanticEncoder(model.vision_model)(frames())
    torch.testing.assert_close(SemanticEncoder.from_pretrained(folder)(frames()), expected)


def test_damaged_folders(whole_checkpoint):
    folder, _ = whole_checkpoint
    for text in ("[]", "null", '{"image_mean": 3}', '{"image_std": [0, 1, 1]}', '{"image_std": "x"}', "{"):
        (folder / "preprocessor_config.json").write_text(text)
        with pytest.raises(UserError, match=r"preprocessor_config\.json"):
            SemanticEncoder.from_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        SemanticEncoder.from_pretrained(folder)
    for text in ("[]", "null", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            SemanticEncoder.from_pretrained(folder)
