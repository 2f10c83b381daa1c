import pytest
import torch
import torch.nn.functional as F

from sama_video.training import attention
from sama_video.training.attention import PlainAttention
from tests.training import processes


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the queries that came to `plain_attention`."""
    shapes, plain = [], attention.plain_attention

    def counted(query, key, value):
        shapes.append(tuple(query.shape))
        return plain(query, key, value)

    monkeypatch.setattr(attention, "plain_attention", counted)
    return shapes


def streams(tokens=20, keys=7):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, count, 16, generator=generator, requires_grad=True) for count in (tokens, keys, keys)]


def test_plain_attention_and_its_gradients_are_torchs(calls):
    ours, theirs = streams(), streams()
    with PlainAttention():
        mine = F.scaled_dot_product_attention(ours[0], key=ours[1], value=ours[2], dropout_p=0.0, is_causal=False)
    reference = F.scaled_dot_product_attention(*theirs)
    torch.testing.assert_close(mine, reference)
    for attended in (mine, reference):
        attended.square().sum().backward()
    for tensor, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(tensor.grad, other.grad)
    assert calls == [(2, 3, 20, 16)]


@pytest.mark.parametrize(
    "special", [{"is_causal": True}, {"scale": 2.0}, {"attn_mask": torch.ones(7, 7).tril().bool()}]
)
def test_what_plain_products_do_not_do_is_left_to_torch(calls, special):
    tensors = streams(7)
    with PlainAttention():
        torch.testing.assert_close(
            F.scaled_dot_product_attention(*tensors, **special),
            torch.ops.aten.scaled_dot_product_attention(*tensors, **special),
        )
    assert calls == []


def test_long_sequences_are_left_to_torch(calls, monkeypatch):
    monkeypatch.setattr(attention, "_MOST_PAIRS", 7 * 20 - 1)
    with PlainAttention():
        F.scaled_dot_product_attention(*streams())
    F.scaled_dot_product_attention(*streams(2))
    assert calls == []


@pytest.mark.parametrize(("precision", "is_plain"), [("bfloat16", True), ("float32", False)])
def test_training_on_a_cpu_takes_it_in_bfloat16(calls, tiny_init, tmp_path, precision, is_plain):
    config = processes.config(tiny_init, loop={"num_steps": 1, "precision": precision})
    processes.trainer(config, tmp_path / "run").train()
    assert bool(calls) == is_plain


def test_checkpointed_blocks_train_in_bfloat16_on_a_cpu(tiny_init, tmp_path, calls):
    """Their backward pass computes them again, by the attention of the forward one."""
    loop = {"precision": "bfloat16", "gradient_checkpointing": True, "num_steps": 2}
    processes.trainer(processes.config(tiny_init, loop=loop), tmp_path).train()
    assert len(processes.losses(tmp_path)) == 2
    assert calls == []
