"""Twice the width, the same function."""

import pytest
import torch

from sama_video.models.presets import PRESETS
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.nano.widening import widened


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    model = SamaTransformer3DModel(**{**PRESETS["nano-narrow"].transformer, "num_layers": 2})
    for parameter in model.parameters():  # nothing is zero, or the test would not see it
        torch.nn.init.normal_(parameter, mean=0.1 * parameter.ndim, std=0.1)
    return model


@torch.no_grad()
def velocity(model, like):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    output = model(
        hidden_states=draw(2, 48, 3, 8, 6),
        timestep=torch.tensor([990.0, 500.0]),
        encoder_hidden_states=draw(2, 12, like.config.text_dim),
        source_hidden_states=draw(2, 48, 3, 8, 6),
        semantic_hidden_states=draw(2, 17, like.config.semantic_dim),
    )
    return torch.cat([output.sample.flatten(), output.semantic.flatten()])


def test_it_computes_what_the_narrow_one_does(narrow):
    wide = widened(narrow)
    expected = velocity(narrow, narrow)
    torch.testing.assert_close(velocity(wide, narrow), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_it_has_the_size_of_the_preset(narrow):
    wanted = PRESETS["nano"].transformer
    assert {key: widened(narrow).config[key] for key in wanted} == {**wanted, "num_layers": 2}


@pytest.mark.parametrize(("noise", "stay_copies"), [(1.0, False), (0.0, True)])
def test_gradients_tell_the_copies_of_a_unit_apart_by_the_noise(narrow, noise, stay_copies):
    wide = widened(narrow, noise=noise)
    with torch.enable_grad():
        output = wide(
            hidden_states=torch.ones(1, 48, 1, 4, 4),
            timestep=torch.tensor([900.0]),
            encoder_hidden_states=torch.ones(1, 3, narrow.config.text_dim),
        )
        output.sample.square().sum().backward()
    first, second = wide.blocks[0].ffn.net[0].proj.bias.grad.chunk(2)
    assert torch.allclose(first, second, rtol=1e-3) == stay_copies
    assert bool(wide.blocks[0].ffn.net[0].proj.bias.grad.any())
