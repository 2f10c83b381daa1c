"""Muon against torch's own, which iterates in bfloat16 alone."""

import pytest
import torch
from torch import nn

from sama_video.training.muon import Muon, orthogonal

SHAPES = [(6, 5), (5, 6), (64, 200), (200, 64), (33, 33)]
DECAY = 0.01


def stepped(kind, shape, **settings):
    """A matrix after four steps on the same gradients."""
    draws = torch.Generator().manual_seed(0)
    matrix = nn.Parameter(torch.randn(shape, generator=draws))
    optimizer = kind([matrix], lr=1e-2, weight_decay=DECAY, **settings)
    for _ in range(4):
        matrix.grad = torch.randn(shape, generator=draws)
        optimizer.step()
    return matrix.detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_is_torchs_bit_by_bit(shape):
    theirs = stepped(torch.optim.Muon, shape, adjust_lr_fn="match_rms_adamw")
    assert torch.equal(stepped(Muon, shape, dtype=torch.bfloat16), theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_float32_it_is_the_same_up_to_bfloat16_s_rounding(shape):
    theirs = stepped(torch.optim.Muon, shape, adjust_lr_fn="match_rms_adamw")
    begun = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    moved = (theirs - begun).abs().max()
    assert (stepped(Muon, shape, dtype=torch.float32) - theirs).abs().max() < 0.05 * moved


@pytest.mark.parametrize("shape", SHAPES)
def test_the_update_has_the_gradient_s_directions_and_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix, torch.float32) @ right.T
    assert torch.allclose(found, torch.diag(found.diagonal()), atol=1e-4)
    assert found.diagonal()[values > 0.1 * values[0]].min() > 0.5
    assert found.diagonal().max() < 1.5


def test_a_matrix_without_a_gradient_stays():
    matrix = nn.Parameter(torch.ones(3, 4))
    optimizer = Muon([matrix], lr=1.0, weight_decay=DECAY, dtype=torch.float32)
    optimizer.step()
    assert torch.equal(matrix, torch.ones(3, 4))
    matrix.grad = torch.zeros(3, 4)
    optimizer.step()  # a gradient of zero has no direction: what is left is the decay
    assert torch.allclose(matrix.detach(), torch.full((3, 4), 1 - DECAY))
