import types

import pytest
import torch

from sama_video.training.losses import StepOutput, flow_matching_step, sample_sigmas
from sama_video.training.trainer import weighted_sums
from tests import tiny


def test_sigmas_lie_inside_and_shift_towards_noise():
    plain, shifted = (sample_sigmas(4000, shift, torch.Generator().manual_seed(0)) for shift in (1.0, 3.0))
    assert shifted.min() > 0
    assert shifted.max() < 1
    assert abs(float(plain.mean()) - 0.5) < 0.02
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))


def test_uniform_sigmas_are_even_before_the_shift():
    sigma = sample_sigmas(4000, 1.0, torch.Generator().manual_seed(0), "uniform")
    assert torch.histc(sigma, 5, 0.0, 1.0).min() > 700


class Oracle(torch.nn.Module):
    """Knows the clean streams and undoes the noise of each at the timestep's sigma, then errs by a constant."""

    def __init__(self, target, semantic=None, semantic_target="velocity", error=0.0):
        super().__init__()
        self.target, self.semantic, self.semantic_target, self.error = target, semantic, semantic_target, error

    def forward(self, x_sigma, timestep, semantic_hidden_states=None, **_):
        sample = self.noise(x_sigma, self.target, timestep) - self.target + self.error
        tokens = None
        if semantic_hidden_states is not None:
            noise = self.noise(semantic_hidden_states, self.semantic, timestep)
            tokens = (noise - self.semantic if self.semantic_target == "velocity" else self.semantic) + self.error
        return types.SimpleNamespace(sample=sample, semantic=tokens)

    @staticmethod
    def noise(x_sigma, x_0, timestep):
        sigma = (timestep / 1000).view(-1, *[1] * (x_0.ndim - 1))
        return (x_sigma - (1 - sigma) * x_0) / sigma


STREAMS = {
    "target": torch.randn(3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1)),
    "noise": torch.randn(3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(2)),
    "semantic": torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(3)),
    "semantic_noise": torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(4)),
    "sigma": torch.tensor([0.2, 0.5, 0.9]),
    "text": torch.zeros(3, 2, 16),
    "source": None,
}


@pytest.mark.parametrize("semantic_target", ["velocity", "clean"])
def test_both_streams_are_noised_at_one_sigma_and_weighed_as_in_eq_4(semantic_target):
    """A squared error of 0.25 on the latents (Eq. 1) and an absolute one of 0.5 on the tokens (Eq. 3)."""
    model = Oracle(STREAMS["target"], STREAMS["semantic"], semantic_target, error=-0.5)
    output = flow_matching_step(model, **STREAMS, semantic_target=semantic_target)
    assert output.semantic_loss is not None
    torch.testing.assert_close(output.flow_loss, torch.full((3,), 0.25), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.semantic_loss, torch.full((3,), 0.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.loss, torch.full((3,), 0.3), atol=1e-4, rtol=0)


def test_without_the_semantic_stream_the_loss_is_the_flow_loss():
    streams = STREAMS | {"semantic": None, "semantic_noise": None}
    output = flow_matching_step(Oracle(STREAMS["target"]), **streams)
    assert output.semantic_loss is None
    assert output.loss.max() < 1e-8
    assert flow_matching_step(tiny.transformer(), **streams).loss.min() > 0.1


def test_losses_by_fifths_of_sigma_leave_fillers_out():
    output = StepOutput(
        loss=torch.tensor([1.0, 2.0, 4.0]),
        flow_loss=torch.tensor([0.5, 1.5, 3.5]),
        semantic_loss=torch.tensor([5.0, 5.0, 5.0]),
        sigma=torch.tensor([0.1, 0.95, 0.95]),
    )
    sums = weighted_sums(output, torch.tensor([0.5, 0.5, 0.0]))
    assert sums.tolist() == [1.5, 1.0, 5.0, 0.5, 0, 0, 0, 1.5, 1, 0, 0, 0, 1]
