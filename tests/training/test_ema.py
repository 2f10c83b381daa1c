import pytest
import torch
from torch import nn

from sama_video.training.ema import Ema


def model(dtype=torch.float32):
    torch.manual_seed(0)
    layer = nn.Linear(2, 2, dtype=dtype)
    layer.bias.requires_grad_(False)
    return layer


@pytest.mark.parametrize("warmup", [False, True])
def test_it_follows_with_its_decay(warmup):
    layer = model()
    ema = Ema(layer, 0.9, warmup=warmup)
    expected = layer.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            layer.weight.add_(0.1)
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    torch.testing.assert_close(ema.averages["weight"], expected)
    assert list(ema.averages) == ["weight"]


def test_the_average_of_a_constant_is_the_constant():
    layer = model()
    ema = Ema(layer, 0.9998)
    for step in range(10):
        ema.update(step)
    torch.testing.assert_close(ema.averages["weight"], layer.weight.detach())


def test_small_changes_are_not_lost_in_bfloat16():
    layer = model(torch.bfloat16)
    ema = Ema(layer, 0.9998)
    ema.averages["weight"].zero_()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for step in range(100_000, 100_010):
        ema.update(step)
    assert float(ema.averages["weight"][0, 0]) == pytest.approx(1 - 0.9998**10, rel=1e-3)


def test_applied_and_taken_back_also_after_an_error():
    layer = model()
    ema, own = Ema(layer, 0.9), layer.weight.detach().clone()
    ema.averages["weight"].fill_(3.0)
    with ema.applied():
        assert layer.weight.eq(3.0).all()
    assert torch.equal(layer.weight, own)
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    assert torch.equal(layer.weight, own)


def test_it_knows_whether_all_are_numbers():
    layer = model()
    ema = Ema(layer, 0.9)
    assert ema.is_finite()
    ema.averages["weight"][0, 0] = float("nan")
    assert not ema.is_finite()
