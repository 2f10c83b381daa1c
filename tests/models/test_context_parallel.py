"""One sequence over several processes."""

import sys

import pytest
import torch
from diffusers import ContextParallelConfig

from sama_video.models.context_parallel import Ulysses
from sama_video.models.source_memory import SourceMemory
from tests import tiny
from tests.models.test_source_memory import streams, velocity
from tests.training.processes import run

# 12 tokens of the source, 5 semantic ones and 18 of the target: 35 do not divide by two.
KINDS = {
    "plain": {},
    "remembers": {},
    "self": {"source_attention": "self"},
    "grid": {"semantic_rope": "grid", "semantic_grid": 2},
    "per_token": {},
}


def predicted(kind: str, group=None) -> torch.Tensor:
    model, given = tiny.transformer(**KINDS[kind]), streams(source_frames=2)
    if group is not None:
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=group))
    if kind == "per_token":
        given["timestep"] = torch.linspace(100, 900, 35).expand(2, -1)
    if kind != "remembers":
        return velocity(model, given)
    memory = SourceMemory()
    velocity(model, given, source_memory=memory)
    return velocity(model, given | {"hidden_states": -given["hidden_states"]}, source_memory=memory)


def in_a_process(folder):
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    for kind in KINDS:
        torch.save(predicted(kind, size), folder / f"{kind}_{rank}.pt")
    model = tiny.transformer()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=size))
    with pytest.raises(RuntimeError, match="forward pass only"):
        model(**streams(source_frames=2))
    with pytest.raises(ValueError, match="5 attention heads do not divide among 2 processes"):
        tiny.transformer(num_attention_heads=5).enable_parallelism(config=ContextParallelConfig(ulysses_degree=size))
    ulysses, x = Ulysses(), torch.randn(2, 33, 4, 3, generator=torch.Generator().manual_seed(0))
    part = ulysses.part(x)
    assert part.shape == (2, 17, 4, 3)
    heads = ulysses.all_tokens(part)
    assert torch.equal(heads[:, :33], x[:, :, 2 * rank : 2 * rank + 2])
    assert torch.equal(ulysses.all_heads(heads), part)
    assert torch.equal(ulysses.whole(part, 33), x)
    dist.destroy_process_group()
    sys.exit(0)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    assert run(in_a_process, folder, world_size=2, timeout=120) == [0, 0]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_predict_what_one_does(kind, predictions):
    alone = predicted(kind)
    for rank in range(2):
        torch.testing.assert_close(torch.load(predictions / f"{kind}_{rank}.pt"), alone, rtol=0, atol=2e-6)


def test_what_is_no_number_of_processes_is_refused():
    for config in (ContextParallelConfig(ring_degree=2), ContextParallelConfig(ulysses_degree=2)):
        with pytest.raises(ValueError, match="give ContextParallelConfig"):
            tiny.transformer().enable_parallelism(config=config)
