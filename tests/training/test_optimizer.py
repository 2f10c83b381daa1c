import copy
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from sama_video.system.errors import UserError
from sama_video.training.config import OptimizerConfig
from sama_video.training.optimizer import Optimizer, check_optimizer, learning_rate


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.transformer = nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(6, 5)), "head": nn.Linear(5, 2)})

    def forward(self, x):
        return self.transformer["head"](self.transformer["blocks"](x).relu())


def backward(model, scale=1.0):
    (scale * model(torch.ones(3, 6)).square().mean()).backward()


def test_the_rate_rises_and_then_goes_straight_to_its_end():
    config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.2, warmup_steps=4)
    rates = [learning_rate(config, step, 101) for step in range(101)]
    assert rates[0] == pytest.approx(0.25)
    assert rates[50] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)
    assert rates[:4] == sorted(rates[:4])
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_making_the_state_changes_no_weight(kind):
    model, untouched = Model(), Model()
    optimizer = Optimizer(model, OptimizerConfig(kind=kind))
    for mine, theirs in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(value.count_nonzero() == 0 for values in optimizer.state().values() for value in values.values())
    assert list(optimizer.state()) == [name for name, _ in model.named_parameters()]


def test_the_first_step_is_torchs_own():
    model, plain = Model(), Model()
    optimizer = Optimizer(model, OptimizerConfig(max_grad_norm=1e9))
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)
    for _ in range(3):
        for one in (model, plain):
            backward(one)
        optimizer.step(1e-2)
        theirs.step()
        theirs.zero_grad()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_clipping_scales_the_whole_gradient():
    model = Model()
    optimizer = Optimizer(model, OptimizerConfig(max_grad_norm=1.0))
    backward(model, 100.0)
    before = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert optimizer.step(0.0) == pytest.approx(float(before.norm()), rel=1e-5)
    moments = torch.cat([values["exp_avg"].flatten() for values in optimizer.state().values()])
    torch.testing.assert_close(moments, 0.1 * before / before.norm())


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e9])
def test_a_gradient_beyond_the_limit_changes_nothing(scale):
    model, untouched = Model(), Model()
    optimizer = Optimizer(model, OptimizerConfig(stop_norm=1e3))
    backward(model, scale)
    assert not optimizer.step(1.0) <= 1e3
    for mine, theirs in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.grad is None
    assert all(value.count_nonzero() == 0 for values in optimizer.state().values() for value in values.values())


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest():
    model = Model()
    optimizer = Optimizer(model, OptimizerConfig(kind="muon"))
    state = optimizer.state()
    assert set(state["transformer.blocks.0.weight"]) == {"momentum_buffer"}
    assert all("exp_avg" in values for name, values in state.items() if name != "transformer.blocks.0.weight")
    backward(model)
    optimizer.step(1e-2)
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [1e-2, pytest.approx(4e-3)]


def test_frozen_parameters_have_no_state():
    model = Model()
    model.transformer["head"].requires_grad_(False)
    assert all("head" not in name for name in Optimizer(model, OptimizerConfig()).state())


class Wide(nn.Module):
    """With a matrix of enough numbers for moments in 8 bits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.head = nn.Linear(64, 128), nn.Linear(128, 2)

    def forward(self, x):
        return self.head(self.wide(x).relu())


EIGHT_BITS = OptimizerConfig(kind="adamw8bit")


def trained(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(8, 64, generator=generator)).square().mean().backward()
        optimizer.step(1e-3)


def test_moments_in_8_bits_take_a_quarter_and_step_nearly_alike():
    model, plain = Wide(), Wide()
    untouched = copy.deepcopy(model.state_dict())
    optimizer, other = Optimizer(model, EIGHT_BITS), Optimizer(plain, OptimizerConfig())
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())

    def moments(state):
        return sum(
            v.numel() * v.element_size() for k, v in state.items() if k.startswith(("state", "absmax", "exp_avg"))
        )

    number = model.wide.weight.numel()
    assert moments(optimizer.state()["wide.weight"]) == number * (2 + 8 / 256)
    assert moments(other.state()["wide.weight"]) == number * 8
    trained(model, optimizer, range(20))
    trained(plain, other, range(20))
    moved = (plain.wide.weight - untouched["wide.weight"]).norm()
    difference = (model.wide.weight - plain.wide.weight).norm()
    assert 0 < difference < 0.05 * moved
    # Small tensors have theirs in float32: the same numbers.
    torch.testing.assert_close(model.head.bias, plain.head.bias, rtol=1e-3, atol=1e-5)


def test_training_with_8_bits_resumes_to_the_bit(tmp_path):
    whole = Wide()
    optimizer = Optimizer(whole, EIGHT_BITS)
    trained(whole, optimizer, range(3))
    dcp.save({"model": whole.state_dict(), "optimizer": optimizer.state()}, checkpoint_id=tmp_path / "saved")
    trained(whole, optimizer, range(3, 6))

    cut = Wide()
    again = Optimizer(cut, EIGHT_BITS)
    dcp.load({"model": cut.state_dict(), "optimizer": again.state()}, checkpoint_id=tmp_path / "saved")
    assert {values["step"] for values in again.state().values()} == {3}
    trained(cut, again, range(3, 6))
    for mine, theirs in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_8_bits_without_their_library_or_for_several_processes_are_refused(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="for one process"):
        check_optimizer(EIGHT_BITS, cpu, 2)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"pip install 'sama-video\[adamw8bit\]'"):
        check_optimizer(EIGHT_BITS, cpu, 1)
    check_optimizer(OptimizerConfig(), cpu, 2)


def test_8_bits_are_tried_on_the_device(monkeypatch):
    library = pytest.importorskip("bitsandbytes.optim")
    check_optimizer(EIGHT_BITS, torch.device("cpu"), 1)

    def unknown(*_):
        raise NotImplementedError("no kernel for this device\nand more")

    monkeypatch.setattr(library.AdamW8bit, "step", unknown)
    with pytest.raises(UserError, match=r"does not work on cpu here \(no kernel for this device\)"):
        check_optimizer(EIGHT_BITS, torch.device("cpu"), 1)


@pytest.mark.gpu
def test_8_bits_step_on_a_gpu():
    check_optimizer(EIGHT_BITS, torch.device("cuda"), 1)
    model = Wide().to("cuda")
    before = model.wide.weight.clone()
    optimizer = Optimizer(model, EIGHT_BITS)
    model(torch.randn(8, 64, device="cuda")).square().mean().backward()
    optimizer.step(1e-3)
    assert optimizer.state()["wide.weight"]["state1"].dtype == torch.uint8
    assert not torch.equal(before, model.wide.weight)
