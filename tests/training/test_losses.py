import torch

from sama_video.training.losses import flow_matching_step, sample_sigmas
from tests import tiny


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
            return type("Output", (), {"sample": noise - target, "semantic": None})

    target = torch.randn(3, 4, 2, 4, 4)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    noise = torch.randn_like(target)
    text = torch.zeros(3, 2, 16)
    output = flow_matching_step(Oracle(), target=target, source=target, text=text, sigma=sigma, noise=noise)
    assert output.loss.shape == (3,)
    assert output.loss.max() < 1e-8
    model = tiny.transformer()
    output = flow_matching_step(model, target=target, source=target, text=text, sigma=sigma, noise=noise)
    assert output.loss.min() > 0.1
