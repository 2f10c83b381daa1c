"""Keys and values of the source's tokens, kept for other passes."""

import pytest
import torch

from sama_video.models.source_memory import SourceMemories, SourceMemory
from tests import tiny


def streams(seed=0, batch=2, source_frames=3):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "hidden_states": draw(batch, 4, 3, 4, 6),
        "source_hidden_states": draw(batch, 4, source_frames, 4, 6),
        "semantic_hidden_states": draw(batch, 5, 12),
        "encoder_hidden_states": draw(batch, 7, 16),
        "timestep": torch.full((batch,), 900.0),
    }


def velocity(model, inputs, **more):
    with torch.no_grad():
        output = model(**inputs, **more)
    return torch.cat([output.sample.flatten(), output.semantic.flatten()])


@pytest.mark.parametrize("roles", ["type", "shifted_rope"])
@pytest.mark.parametrize("kind", ["full", "self"])
def test_a_pass_that_reads_gives_what_the_pass_that_wrote_gave(kind, roles):
    model, inputs = tiny.transformer(source_attention=kind, roles=roles), streams(source_frames=2)
    memory = SourceMemory()
    plain = velocity(model, inputs)
    torch.testing.assert_close(velocity(model, inputs, source_memory=memory), plain, rtol=0, atol=2e-6)
    assert not memory.is_empty
    torch.testing.assert_close(velocity(model, inputs, source_memory=memory), plain, rtol=0, atol=2e-6)


def test_full_attention_is_stock_s_to_the_bit():
    """The processor that can remember is every block's, and leaves an ordinary pass alone."""
    model, inputs = tiny.transformer(), streams()
    before = velocity(model, inputs)
    model.set_attn_processor(type(model.blocks[0].attn1)._default_processor_cls())
    assert torch.equal(velocity(model, inputs), before)


@pytest.mark.parametrize(("kind", "same"), [("self", True), ("full", False)])
def test_a_source_that_sees_itself_alone_is_the_same_in_every_step_and_branch(kind, same):
    model, first = tiny.transformer(source_attention=kind), streams(0)
    later = streams(1) | {"source_hidden_states": first["source_hidden_states"], "timestep": torch.full((2,), 300.0)}
    memory = SourceMemory()
    velocity(model, first, source_memory=memory)
    exact, read = velocity(model, later), velocity(model, later, source_memory=memory)
    assert torch.allclose(read, exact, rtol=0, atol=2e-6) == same


def test_one_source_serves_a_batch_of_edits():
    model, inputs = tiny.transformer(source_attention="self"), streams()
    inputs["source_hidden_states"] = inputs["source_hidden_states"][:1].expand(2, -1, -1, -1, -1)
    memory = SourceMemory()
    model.remember_source(inputs["source_hidden_states"][:1], inputs["hidden_states"], memory)
    torch.testing.assert_close(
        velocity(model, inputs, source_memory=memory), velocity(model, inputs), rtol=0, atol=2e-6
    )
    tokens, width = 3 * 2 * 3, 48
    assert memory.num_bytes == len(model.blocks) * 2 * tokens * width * 4


def test_the_target_reads_the_source():
    model, inputs = tiny.transformer(source_attention="self"), streams()
    other = inputs | {"source_hidden_states": 1 - inputs["source_hidden_states"]}
    assert not torch.allclose(velocity(model, inputs), velocity(model, other), atol=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_what_made_keys_and_values(checkpointing):
    gradients = []
    for uses in (False, checkpointing):
        model, inputs = tiny.transformer(source_attention="self").train(), streams()
        if uses:
            model.enable_gradient_checkpointing()
        inputs["source_hidden_states"].requires_grad_(True)
        model(**inputs).sample.square().sum().backward()
        gradients.append((inputs["source_hidden_states"].grad, model.blocks[0].ffn.net[2].weight.grad))
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(checkpointed, plain)


def test_a_timestep_per_token_and_a_memory_exclude_each_other():
    model, inputs = tiny.transformer(source_attention="self"), streams()
    inputs["timestep"] = torch.zeros(2, 18 + 5 + 18)
    with pytest.raises(ValueError, match="a memory leaves them out"):
        model(**inputs)


def test_by_channel_there_are_no_tokens_of_the_source():
    with pytest.raises(ValueError, match="come as tokens"):
        tiny.transformer(source="channel", source_attention="self")


def test_branches_have_memories_of_their_own_until_the_next_refresh():
    memories = SourceMemories(refresh=2)
    memories.begin_step(0)
    first, other = memories.of("cond"), memories.of("uncond")
    memories.begin_step(1)
    assert memories.of("cond") is first
    assert memories.of("uncond") is other is not first
    memories.begin_step(2)
    assert memories.of("cond") is not first
    assert SourceMemories().of("cond") is None
    shared = SourceMemory()
    assert SourceMemories(shared=shared).of("cond") is SourceMemories(shared=shared).of("uncond") is shared
