"""The prediction around the source: what its formulas say, and that the transformer goes by them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sama_video.models.latents import noised
from sama_video.models.prediction import AroundSource
from sama_video.training.losses import flow_matching_step
from tests import tiny

SHAPE = (2, 4, 4, 8, 8)
SIGMAS = st.floats(0.0, 1.0)


def clip(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def around(sigma, std, mean):
    return AroundSource(
        mean=mean,
        std=torch.full((1, 4, 1, 1, 1), std, dtype=torch.float64),
        sigma=torch.full((2, 1, 1, 1, 1), sigma, dtype=torch.float64),
    )


@settings(max_examples=30, deadline=None)
@given(sigma=SIGMAS, std=st.floats(0.05, 3.0))
def test_nothing_from_the_network_is_the_best_linear_guess(sigma, std):
    """Over many samples of its own model, no other straight line through x_sigma has a smaller squared error."""
    generator = torch.Generator().manual_seed(0)
    size = (1, 1, 1, 200, 200)
    residual, noise = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
    residual = residual * std
    level = torch.tensor(sigma, dtype=torch.float64).view(1, 1, 1, 1, 1)
    mean = torch.zeros(size, dtype=torch.float64)
    model = AroundSource(mean=mean, std=torch.tensor(std, dtype=torch.float64).view(1, 1, 1, 1, 1), sigma=level)
    x_sigma = (1 - level) * residual + level * noise
    wanted = noise - residual
    slope = (x_sigma * wanted).sum() / x_sigma.square().sum()
    guess = model.velocity(torch.zeros(size, dtype=torch.float64), x_sigma)
    best = (wanted - slope * x_sigma).square().mean()
    # The slope of a finite sample is a little off the true one.
    assert (wanted - guess).square().mean() <= best * 1.001 + 1e-12
    # What is left has the spread that the network's output is multiplied by.
    torch.testing.assert_close((wanted - guess).square().mean().sqrt(), std / model.spread.squeeze(), rtol=0.02, atol=0)


@settings(max_examples=30, deadline=None)
@given(sigma=SIGMAS, std=st.floats(0.05, 3.0))
def test_the_output_that_the_loss_asks_for_gives_the_exact_velocity(sigma, std):
    source, target, noise = clip(0), clip(1), clip(2)
    model = around(sigma, std, source)
    x_sigma = noised(target, noise, model.sigma.flatten())
    asked = (noise - target - model.velocity(torch.zeros_like(noise), x_sigma)) * model.spread / model.std
    torch.testing.assert_close(model.velocity(asked, x_sigma), noise - target, rtol=1e-9, atol=1e-9)


@given(sigma=SIGMAS)
def test_the_network_s_input_is_of_unit_spread(sigma):
    source, noise = clip(0), clip(2)
    target = source + 0.7 * clip(1)
    model = around(sigma, 0.7, source)
    assert model.network_input(noised(target, noise, model.sigma.flatten())).std() == pytest.approx(1.0, abs=0.12)


def test_without_a_source_it_is_edm_s_form():
    """Karras et al., Table 1, for x = x_0 + s n at s = sigma / (1 - sigma): D = c_skip x + c_out F(c_in x)."""
    sigma, std, x_0, noise, output = 0.3, 0.8, clip(0), clip(1), clip(2)
    model = around(sigma, std, torch.zeros(SHAPE, dtype=torch.float64))
    x_sigma = noised(x_0, noise, model.sigma.flatten())
    level, x = sigma / (1 - sigma), x_sigma / (1 - sigma)
    skip, out = std**2 / (level**2 + std**2), level * std / (level**2 + std**2) ** 0.5
    denoised = skip * x - out * output  # EDM's network gives the clean side, this one the noise's
    torch.testing.assert_close(model.velocity(output, x_sigma), (x_sigma - denoised) / sigma, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.network_input(x_sigma), x / (level**2 + std**2) ** 0.5, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1.0])
def test_the_ends_are_finite(sigma):
    model = around(sigma, 0.7, clip(0))
    for values in (model.network_input(clip(1)), model.velocity(clip(2), clip(1))):
        assert values.isfinite().all()


def streams(transformer, frames=2):
    generator = torch.Generator().manual_seed(1)
    channels, text = transformer.config.in_channels, transformer.config.text_dim
    return {
        "target": torch.randn(2, channels, 2, 4, 4, generator=generator),
        "source": torch.randn(2, channels, frames, 4, 4, generator=generator),
        "noise": torch.randn(2, channels, 2, 4, 4, generator=generator),
        "text": torch.randn(2, 5, text, generator=generator),
        "sigma": torch.tensor([0.2, 0.9]),
    }


def test_an_untrained_transformer_copies_its_source():
    """With an output of zero and tiny changes to expect, one Euler step from any sigma to 0 leads to the source."""
    transformer = tiny.transformer(
        prediction="around_source", residual_std=[1e-4] * tiny.transformer().config.in_channels
    )
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    given = streams(transformer)
    x_sigma = noised(given["target"], given["noise"], given["sigma"])
    velocity = transformer(x_sigma, 1000 * given["sigma"], given["text"], given["source"], return_dict=False)[0]
    reached = x_sigma - given["sigma"].view(-1, 1, 1, 1, 1) * velocity
    torch.testing.assert_close(reached, given["source"], rtol=0, atol=1e-3)


def test_a_source_on_another_grid_is_only_attended_to():
    transformer = tiny.transformer(
        prediction="around_source", latents_std=[2.0] * tiny.transformer().config.in_channels
    )
    given = streams(transformer, frames=4)
    around_nothing = transformer._around_source(given["target"], given["source"], 1000 * given["sigma"])
    assert not around_nothing.mean.any()
    assert (around_nothing.std == 2).all()
    assert flow_matching_step(transformer, **given).loss.isfinite().all()


def test_one_timestep_per_token_is_refused():
    transformer = tiny.transformer(prediction="around_source")
    given = streams(transformer)
    with pytest.raises(ValueError, match="one timestep per sample"):
        transformer(given["target"], torch.ones(2, 16), given["text"], given["source"])


@pytest.mark.parametrize("name", ["residual_std", "latents_std"])
def test_spreads_must_be_one_per_channel(name):
    with pytest.raises(ValueError, match=f"{name} must hold"):
        tiny.transformer(prediction="around_source", **{name: [1.0, 2.0]})
