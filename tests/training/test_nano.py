import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from sama_video.models.autoencoder_sama_nano import AutoencoderSamaNano
from sama_video.models.presets import PRESETS
from sama_video.synth.engine import Engine
from sama_video.synth.footage import Footage
from sama_video.training import nano
from sama_video.training.losses import flow_matching_step, sample_sigmas
from tests import tiny


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """On blocky photographs, which a decoder can learn something of in a few steps."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(9):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
    footage = Footage(images=folder, videos=None, split="train", cache=folder)
    return Engine(families=("global_style",), footage=footage, footage_share=1.0)


@pytest.fixture(scope="module")
def codec(engine):
    vae = AutoencoderSamaNano()
    nano.fit_linear_codec(vae, engine, num_clips=8)
    return vae


def test_the_linear_codec_is_orthonormal_and_inverts_itself(codec):
    torch.testing.assert_close(codec.components @ codec.components.T, torch.eye(48), rtol=0, atol=1e-4)
    latents = torch.randn(1, 48, 3, 4, 4) * 0.1
    with torch.no_grad():
        video = codec.decode_unclamped(latents)
        assert video.shape == (1, 3, 9, 32, 32)
        patches = codec.unpatchify(codec.patchify(video))
    assert torch.equal(patches, video)


def test_an_untrained_decoder_is_the_transposed_encoder_and_training_improves_it(codec, engine):
    vae = AutoencoderSamaNano.from_config(codec.config)
    vae.load_state_dict(codec.state_dict())
    scores = nano.train_decoder(vae, engine, engine, num_steps=30, batch_size=2)
    assert scores["trained"] > scores["linear"]


def test_frames_must_be_4k_plus_1(codec):
    with pytest.raises(ValueError, match="4k\\+1 frames"):
        codec.encode(torch.zeros(1, 3, 4, 32, 32))


def test_heads_start_on_the_same_place():
    """A target token's attention in such a head peaks at the source token of its own place."""
    torch.manual_seed(0)
    transformer = nano.new_transformer()
    nano.start_some_heads_on_the_same_place(transformer)
    attention = transformer.blocks[0].attn1
    cos, sin = transformer.rope(torch.zeros(1, 48, 3, 16, 16))
    tokens = torch.randn(1, 192, 384)
    query, key = attention.norm_q(attention.to_q(tokens)), attention.norm_k(attention.to_k(tokens))

    def rotate(x):
        x = x.unflatten(2, (8, -1))
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos[..., 0::2], sin[..., 1::2]
        return torch.stack([first * c - second * s, first * s + second * c], dim=-1).flatten(-2)

    logits = torch.einsum("bqhd,bkhd->bhqk", rotate(query), rotate(key)) / 48**0.5
    own = logits.softmax(dim=-1).diagonal(dim1=-2, dim2=-1).mean(dim=(0, 2))
    assert own[:2].min() > 20 * own[2:].max()


def test_sigmas_lie_inside_and_shift_towards_noise():
    plain, shifted = (sample_sigmas(4000, shift, torch.Generator().manual_seed(0)) for shift in (1.0, 3.0))
    assert shifted.min() > 0
    assert shifted.max() < 1
    assert abs(float(plain.mean()) - 0.5) < 0.02
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))


def test_the_loss_of_a_perfect_velocity_is_zero():
    class Oracle(torch.nn.Module):
        def forward(self, x_sigma, timestep, **_):
            sigma = (timestep / 1000).view(-1, 1, 1, 1, 1)
            noise = (x_sigma - (1 - sigma) * target) / sigma
            return type("Output", (), {"sample": noise - target})

    target = torch.randn(3, 4, 2, 4, 4)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    noise = torch.randn_like(target)
    output = flow_matching_step(Oracle(), target, target, torch.zeros(3, 2, 16), sigma, noise)
    assert output.loss.shape == (3,)
    assert output.loss.max() < 1e-8
    model = tiny.transformer()
    output = flow_matching_step(model, target, target, torch.zeros(3, 2, 16), sigma, noise)
    assert output.loss.min() > 0.1


@pytest.fixture
def stage():
    return nano.Stage(
        name="test",
        shapes=((1, 64, 64),),
        tokens_per_step=128,
        num_steps=4,
        learning_rate=1e-3,
        final_learning_rate=1e-4,
    )


@pytest.fixture
def small(monkeypatch):
    preset = dict(PRESETS["nano"].transformer, num_layers=1, ffn_dim=64)
    monkeypatch.setitem(nano.PRESETS, "nano", type("Preset", (), {**vars(PRESETS["nano"]), "transformer": preset}))
    return nano.train_tokenizer(num_samples=200, vocab_size=300)


def losses(folder: Path):
    return [json.loads(line).get("loss") for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_equals_an_uninterrupted_one(small, codec, engine, stage, tmp_path):
    def trainer(name):
        (tmp_path / name).mkdir(exist_ok=True)
        made = nano.NanoTrainer(tmp_path / name, codec, small, engine)
        made.resume()
        return made

    whole = trainer("whole")
    expected = [whole.train_step(stage, 1e-3)["loss"] for _ in range(4)]
    first = trainer("parts")
    actual = [first.train_step(stage, 1e-3)["loss"] for _ in range(2)]
    first.save()
    second = trainer("parts")
    assert second.step == 2
    actual += [second.train_step(stage, 1e-3)["loss"] for _ in range(2)]
    assert actual == expected
    for name, weight in whole.weights.items():
        assert torch.equal(weight, second.weights[name]), name
        assert torch.equal(whole.ema[name], second.ema[name]), name


def test_training_exports_a_pipeline_that_edits(small, codec, engine, stage, tmp_path):
    from sama_video.pipelines.pipeline_sama import SamaPipeline

    trainer = nano.NanoTrainer(tmp_path, codec, small, engine)
    trainer.train((stage,), engine)
    assert (tmp_path / "checkpoint" / "step.json").exists()
    vae = AutoencoderSamaNano.from_config(codec.config)
    vae.load_state_dict(codec.state_dict())
    nano.export(trainer, vae, tmp_path / "nano")
    pipe = SamaPipeline.from_pretrained(tmp_path / "nano", dtype=torch.float32)
    video = np.zeros((5, 32, 32, 3), dtype=np.uint8)
    assert pipe(video=video, prompt="make it sepia", num_inference_steps=1).frames.shape == (1, 5, 32, 32, 3)
