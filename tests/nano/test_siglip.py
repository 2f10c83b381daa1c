"""The recipe of the nano's SigLIP: it computes in what is fast, keeps that when it resumes, and Ctrl-C saves."""

import itertools
import signal

import pytest
import torch

from sama_video.nano import siglip as nano_siglip
from sama_video.nano.parts import train_tokenizer
from sama_video.nano.siglip import SiglipTrainer, draw_pairs
from sama_video.synth.engine import Engine


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(num_samples=50, vocab_size=300)


@pytest.fixture
def two_pairs(monkeypatch):
    """Every step takes the same few pictures, without a process that draws them."""
    pairs = draw_pairs(Engine(), 0, 2)
    monkeypatch.setattr(nano_siglip, "batches", lambda first, last: itertools.repeat(pairs, last - first))


@pytest.mark.usefixtures("two_pairs")
@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_resumed_run_keeps_its_precision(tokenizer, tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(nano_siglip, "choose_precision", lambda _: chosen)
    one = SiglipTrainer(tmp_path, tokenizer, num_steps=2)
    pictures, captions = draw_pairs(Engine(), 0, 2)
    one.train_step(pictures, captions)
    one.save()
    monkeypatch.setattr(nano_siglip, "choose_precision", lambda _: "float32" if chosen == "bfloat16" else "bfloat16")
    resumed = SiglipTrainer(tmp_path, tokenizer, num_steps=2)
    resumed.resume()
    assert (resumed.step, resumed.precision) == (1, chosen)
    assert one.train_step(pictures, captions) == resumed.train_step(pictures, captions)


@pytest.mark.usefixtures("two_pairs")
def test_ctrl_c_saves_the_step_under_way(tokenizer, tmp_path, monkeypatch):
    train_step = SiglipTrainer.train_step

    def interrupted(trainer, *batch):
        signal.raise_signal(signal.SIGINT)
        return train_step(trainer, *batch)

    monkeypatch.setattr(SiglipTrainer, "train_step", interrupted)
    with pytest.raises(SystemExit) as stopped:
        SiglipTrainer(tmp_path, tokenizer, num_steps=3).train()
    assert stopped.value.code == 130
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1
