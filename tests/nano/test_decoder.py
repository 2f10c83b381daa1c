"""The training of the nano's decoder: what it is shown, what it minimises, and that it resumes."""

import math

import numpy as np
import pytest
import torch

from sama_video.models.autoencoder_sama_nano import AutoencoderSamaNano
from sama_video.nano.decoder import (
    LEARNING_RATE,
    DecoderTrainer,
    as_sampled,
    draw_edits,
    edit_loss,
    train_decoder,
    with_source_branch,
)
from sama_video.nano.parts import fit_linear_codec
from sama_video.synth.engine import Engine
from sama_video.system.errors import UserError


@pytest.fixture(scope="module")
def linear():
    vae = AutoencoderSamaNano(z_dim=12, decoder_width=16, decoder_layers=1, source_width=16, source_layers=1)
    fit_linear_codec(vae, Engine(), num_clips=4)
    return vae


@pytest.fixture
def vae(linear):
    torch.manual_seed(0)
    copied = AutoencoderSamaNano.from_config(linear.config)
    copied.load_state_dict(linear.state_dict())
    return copied


def clips(seed=0):
    """Sources and targets `[2, 5, 32, 32, 3]` and masks: the targets' left half is another."""
    source = np.random.default_rng(seed).integers(0, 256, (2, 5, 32, 32, 3), dtype=np.uint8)
    target = source.copy()
    target[:, :, :, :16] = 255 - target[:, :, :, :16]
    return source, target, (source != target).any(axis=-1)


def test_latents_carry_errors_of_every_strength_and_some_hardly_any():
    latents = torch.zeros(400, 3, 2, 8, 8)
    errors = as_sampled(latents, torch.Generator().manual_seed(0)).square().mean(dim=(1, 2, 3, 4)).sqrt()
    assert errors.max() < 0.5
    assert 0.3 < (errors < 0.03).float().mean() < 0.5
    assert (errors > 0.2).float().mean() > 0.1


def test_a_batch_holds_edits_their_reverse_and_clips_that_stay(monkeypatch):
    monkeypatch.setattr("sama_video.nano.decoder._SHAPES", ((1, 32, 32),))
    sources, targets, masks = draw_edits(Engine(), 0, 10)
    assert sources.shape == targets.shape == (20, 1, 32, 32, 3)
    stays = (sources == targets).all(axis=(1, 2, 3, 4))
    assert 0 < stays.sum() < 10
    assert ((~masks).all(axis=(1, 2, 3)) == stays).all()
    assert (masks | (sources == targets).all(axis=-1)).all()
    plain = Engine().pair(int(np.flatnonzero(~stays)[0]), 1, 32, 32)
    assert {plain.source.tobytes(), plain.target.tobytes()} == {
        sources[~stays][0].tobytes(),
        targets[~stays][0].tobytes(),
    }


def test_halving_the_error_gains_as_much_wherever_it_is():
    target = torch.zeros(1, 3, 1, 4, 4)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    target[..., :2] = 1.0
    left, right = target.clone(), target.clone()
    left[..., :2] += 0.8
    right[..., :2] += 0.8
    left[..., 2:] += 0.4
    right[..., 2:] += 0.4
    left[..., :2] -= 0.4
    right[..., 2:] -= 0.2
    whole = target.clone()
    whole[..., :2] += 0.8
    whole[..., 2:] += 0.4
    gains = [edit_loss(whole, target, mask) - edit_loss(half, target, mask) for half in (left, right)]
    for gain in gains:
        assert float(gain) == pytest.approx(math.log(4) / 2, rel=0.02)


@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_the_learning_rate_rises_and_falls_to_nothing_however_few_the_steps(vae, num_steps):
    trainer = DecoderTrainer(vae, Engine(), num_steps=num_steps, batch_size=1, checkpoint=None)
    rates = []
    for _ in range(num_steps):
        rates += trainer.schedule.get_last_lr()
        assert np.isfinite(trainer.train_step(*clips())).all()
    assert rates[0] == LEARNING_RATE == max(rates)
    assert sorted(rates, reverse=True) == rates
    assert rates[-1] <= LEARNING_RATE * 2 / num_steps


def test_a_resumed_training_is_the_uninterrupted_one(vae, linear, tmp_path):
    def begin(one, checkpoint):
        return DecoderTrainer(one, Engine(), num_steps=20, batch_size=1, checkpoint=checkpoint)

    first = begin(vae, tmp_path / "decoder.pt")
    first.train_step(*clips(0))
    first.save()
    fresh = AutoencoderSamaNano.from_config(linear.config)
    fresh.components.data.copy_(linear.components)
    second = begin(fresh, tmp_path / "decoder.pt")
    assert second.step == 1
    assert second.train_step(*clips(1)) == first.train_step(*clips(1))
    with pytest.raises(UserError, match="another autoencoder or length; delete it"):
        DecoderTrainer(fresh, Engine(), num_steps=21, batch_size=1, checkpoint=tmp_path / "decoder.pt")


def test_a_grown_autoencoder_decodes_as_before():
    old = AutoencoderSamaNano(z_dim=12, decoder_width=16, decoder_layers=1).eval()
    torch.nn.init.normal_(old.components)
    grown = with_source_branch(old).eval()
    assert grown.takes_source
    assert with_source_branch(grown) is grown
    latents = torch.randn(1, 12, 2, 4, 4)
    assert torch.equal(grown.decode(latents).sample, old.decode(latents).sample)


@pytest.mark.slow
def test_a_short_training_keeps_what_the_edit_leaves_alone(vae):
    scores = train_decoder(vae, Engine(), Engine(split="validation"), num_steps=40, batch_size=2, validation_clips=8)
    assert scores["before"] == scores["linear"]
    assert scores["without source"].outside > scores["linear"].outside  # most of a clip, so most of its loss
    assert scores["with source"].outside > scores["without source"].outside + 5
    assert scores["with source"].inside > scores["linear"].inside - 1  # so few steps do not reach it again
