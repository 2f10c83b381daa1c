import pytest
import torch
from diffusers import WanTransformer3DModel
from einops import rearrange

from sama_video.models.positions import absolute_positions
from sama_video.models.transformer_sama import SamaTransformer3DModel, _mean_of_text
from tests import tiny

WAN_KEYS = {key: value for key, value in tiny.TRANSFORMER.items() if not key.startswith("semantic")}


def inputs(batch=1, frames=3, height=6, width=8, semantic=5, source=(3, 6, 8), seed=1):
    g = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 4, frames, height, width, generator=g),
        "timestep": torch.full((batch,), 700.0),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=g),
        "source_hidden_states": torch.randn(batch, 4, *source, generator=g) if source else None,
        "semantic_hidden_states": torch.randn(batch, semantic, 12, generator=g) if semantic else None,
    }


def test_without_extra_tokens_and_types_it_is_stock_wan():
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**WAN_KEYS).eval()
    sama = SamaTransformer3DModel(**tiny.TRANSFORMER).eval()
    missing = sama.load_state_dict(wan.state_dict(), strict=False).missing_keys
    assert all(key.startswith(("type_embedding", "semantic_")) for key in missing)
    x = inputs(source=None, semantic=0)
    arguments = {k: x[k] for k in ("hidden_states", "timestep", "encoder_hidden_states")}
    with torch.no_grad():
        expected = wan(**arguments).sample
        assert torch.equal(sama(**arguments).sample, expected)
        per_token = torch.full((1, 3 * 3 * 4), 700.0)
        wan_2_2 = wan(**(arguments | {"timestep": per_token})).sample
        assert torch.equal(sama(**(arguments | {"timestep": per_token})).sample, wan_2_2)
    torch.testing.assert_close(wan_2_2, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", [(3, 6, 8), (2, 4, 10), (1, 6, 8)])
@pytest.mark.parametrize("semantic", [0, 5, 2 * 65])
def test_streams_of_every_size(source, semantic):
    model = tiny.transformer()
    with torch.no_grad():
        output = model(**inputs(batch=2, source=source, semantic=semantic))
    assert output.sample.shape == (2, 4, 3, 6, 8)
    assert output.semantic is None if semantic == 0 else output.semantic.shape == (2, semantic, 12)


def test_batch_entries_do_not_touch_each_other():
    model = tiny.transformer()
    x = inputs(batch=2)
    with torch.no_grad():
        both = model(**x)
        second = model(**{key: value[1:] for key, value in x.items()})
    torch.testing.assert_close(both.sample[1:], second.sample)
    torch.testing.assert_close(both.semantic[1:], second.semantic)


def test_semantic_tokens_are_a_set_under_zero_rope_and_see_everything_evenly():
    x = inputs()
    for rope in ("zero", "identity"):
        model = tiny.transformer(semantic_rope=rope)
        order = torch.tensor([3, 0, 4, 1, 2])
        with torch.no_grad():
            output = model(**x)
            shuffled = model(**(x | {"semantic_hidden_states": x["semantic_hidden_states"][:, order]}))
        torch.testing.assert_close(shuffled.semantic, output.semantic[:, order], rtol=1e-4, atol=1e-5)
    zero, identity = (tiny.transformer(semantic_rope=rope) for rope in ("zero", "identity"))
    with torch.no_grad():
        assert (zero(**x).sample - identity(**x).sample).abs().max() > 1e-4


def test_zero_rope_makes_queries_and_keys_vanish():
    model = tiny.transformer(semantic_rope="zero")
    cos, sin = model._semantic_rotary(5, torch.ones(1, 1, 1, 24), torch.Size((1, 2, 2)))
    assert cos.abs().sum() == 0
    assert sin.abs().sum() == 0


def test_type_ids_tell_the_streams_apart():
    model = tiny.transformer()
    x = inputs()
    with torch.no_grad():
        before = model(**x).sample
        for row in range(3):
            changed = tiny.transformer()
            changed.type_embedding.weight[row, ::2] += 1.0
            assert (changed(**x).sample - before).abs().max() > 1e-3


def test_a_timestep_per_token_covers_the_whole_sequence():
    model = tiny.transformer()
    x = inputs()
    tokens = 36 + 5 + 36
    with torch.no_grad():
        expected = model(**x)
        output = model(**(x | {"timestep": torch.full((1, tokens), 700.0)}))
        torch.testing.assert_close(output.sample, expected.sample, rtol=1e-4, atol=1e-5)
        clean_source = torch.full((1, tokens), 700.0)
        clean_source[:, :36] = 0.0
        assert (model(**(x | {"timestep": clean_source})).sample - expected.sample).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"expected \[1, 77\]"):
        model(**(x | {"timestep": torch.full((1, 36), 700.0)}))


def test_gradient_checkpointing_changes_nothing():
    x = inputs()
    gradients = []
    for checkpointing in (False, True):
        model = tiny.transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        output = model(**x)
        (output.sample.square().mean() + output.semantic.square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_attention_backends():
    model = tiny.transformer()
    x = inputs()
    with torch.no_grad():
        expected = model(**x).sample
        model.set_attention_backend("_native_math")
        try:
            torch.testing.assert_close(model(**x).sample, expected, rtol=1e-4, atol=1e-5)
        finally:
            model.set_attention_backend("native")  # diffusers makes it that of every model


def test_lora_adapters():
    from peft import LoraConfig

    model = tiny.transformer()
    x = inputs()
    with torch.no_grad():
        before = model(**x).sample
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        adapted = model(**x).sample
        assert (adapted - before).abs().max() > 1e-4
        torch.testing.assert_close(model(**x, attention_kwargs={"scale": 0.0}).sample, before)
        model.disable_adapters()
        torch.testing.assert_close(model(**x).sample, before)


def test_save_and_load(tmp_path):
    model = tiny.transformer(semantic_rope="identity")
    model.save_pretrained(tmp_path)
    loaded = SamaTransformer3DModel.from_pretrained(tmp_path)
    assert loaded.config.semantic_rope == "identity"
    assert loaded.config.num_attention_heads == 2
    x = inputs()
    with torch.no_grad():
        assert torch.equal(loaded(**x).sample, model(**x).sample)


def test_a_stock_wan_folder_lacks_exactly_the_new_weights_and_starts_as_wan(tmp_path):
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**WAN_KEYS).eval()
    wan.save_pretrained(tmp_path)
    model, report = SamaTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    new = {key for key in model.state_dict() if key.startswith(("type_embedding.", "semantic_"))}
    assert set(report["missing_keys"]) == new
    assert not report["unexpected_keys"]
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert model.type_embedding.weight.abs().sum() == 0
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, 3, 6, 8, generator=g), torch.tensor([500.0]), torch.randn(1, 7, 16, generator=g)
    with torch.no_grad():
        assert torch.equal(model.eval()(*x).sample, wan(*x).sample)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": torch.zeros(1, 3, 3, 6, 8)}, r"hidden_states must be \[B, 4"),
        ({"source_hidden_states": torch.zeros(1, 4, 3, 5, 8)}, "must divide by the patch"),
        ({"source_hidden_states": torch.zeros(2, 4, 3, 6, 8)}, "batch 2"),
        ({"semantic_hidden_states": torch.zeros(1, 5, 11)}, "semantic_hidden_states must be"),
    ],
)
def test_streams_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny.transformer()(**(inputs() | change))


@pytest.mark.parametrize("name", ["semantic_rope", "semantic_prediction", "roles", "source"])
def test_unknown_values_of_the_config_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be '"):
        SamaTransformer3DModel(**(tiny.TRANSFORMER | {name: "shifted"}))


def test_shifted_rope_puts_the_source_after_the_target():
    """The source's factors are those of the frames that a clip of both lengths has after the target's."""
    model = tiny.transformer(roles="shifted_rope")
    source, target = torch.zeros(1, 4, 2, 6, 8), torch.zeros(1, 4, 3, 6, 8)
    whole = model.rope(torch.zeros(1, 4, 5, 6, 8))
    for found, expected in zip(model._source_rotary(source, target), whole, strict=True):
        assert torch.equal(found, expected[:, 3 * 12 :])


def test_shifted_rope_tells_source_from_target_without_types():
    """The shift alone changes what the model predicts, and the type embedding has no part in it."""
    x = inputs(semantic=0)
    types, shifted = (tiny.transformer(roles=roles) for roles in ("type", "shifted_rope"))
    with torch.no_grad():
        types.type_embedding.weight.zero_()
        same_roles = types(**x).sample
        assert (shifted(**x).sample - same_roles).abs().max() > 1e-4
        shifted.type_embedding.weight.normal_()
        before = shifted(**x).sample
        shifted.type_embedding.weight.zero_()
        assert torch.equal(shifted(**x).sample, before)


def test_a_source_by_channel_is_one_convolution_of_both():
    model = tiny.transformer(source="channel")
    torch.nn.init.normal_(model.source_embedding.weight, std=0.1)
    x = inputs()
    both = torch.nn.Conv3d(8, 48, (1, 2, 2), stride=(1, 2, 2))
    with torch.no_grad():
        both.weight.copy_(torch.cat([model.patch_embedding.weight, model.source_embedding.weight], dim=1))
        both.bias.copy_(model.patch_embedding.bias)
        latents = torch.cat([x["hidden_states"], x["source_hidden_states"]], dim=1)
        expected = both(latents).flatten(2).transpose(1, 2) + model.type_embedding.weight[2]
        found = model._embed_latents(x["hidden_states"], 2, x["source_hidden_states"])
        torch.testing.assert_close(found, expected)
        without = model(**(x | {"source_hidden_states": None})).sample
        assert torch.equal(model(**(x | {"source_hidden_states": torch.zeros(1, 4, 3, 6, 8)})).sample, without)
        assert (model(**x).sample - without).abs().max() > 1e-4


def test_a_source_by_channel_must_have_the_target_s_grid():
    with pytest.raises(ValueError, match=r"must have the target's grid \(3, 6, 8\), got \(2, 6, 8\)"):
        tiny.transformer(source="channel")(**inputs(source=(2, 6, 8)))


def test_streams_can_change_before_training():
    model = tiny.transformer()
    x = inputs()
    with torch.no_grad():
        before = model(**x).sample
        model.reconfigure(source="channel", semantic_prediction="clean", semantic_grid=4)
        assert (model.config.semantic_prediction, model.config.semantic_grid) == ("clean", 4)
        without = model(**(x | {"source_hidden_states": None})).sample
        assert torch.equal(model(**x).sample, without)
        model.reconfigure(source="token", semantic_prediction="velocity", semantic_grid=8)
        assert torch.equal(model(**x).sample, before)
    with pytest.raises(ValueError, match="roles must be"):
        model.reconfigure(roles="shifted")
    with pytest.raises(ValueError, match="semantic_grid must be"):
        model.reconfigure(semantic_grid=0)


def test_what_has_learned_to_edit():
    for changes in ({}, {"source": "channel"}):
        model = tiny.transformer(**changes)
        model.reset_new_parts()
        assert not model.has_learned_to_edit
        part = model.type_embedding if not changes else model.source_embedding
        torch.nn.init.ones_(part.weight)
        assert model.has_learned_to_edit
    assert tiny.transformer(roles="shifted_rope").has_learned_to_edit


@pytest.mark.parametrize("side", [4, 6, 8])
def test_local_semantic_tokens_on_the_grid_turn_as_the_target_tokens_of_their_regions(side):
    """Where the target has as many tokens as there are regions, both have the same places."""
    transformer = tiny.transformer(semantic_rope="grid", semantic_grid=side)
    target = torch.zeros(1, transformer.config.in_channels, 3, 2 * side, 2 * side)
    expected = transformer.rope(target)
    found = transformer._semantic_rotary(side**2 + 1, expected[0], target.shape[2:])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine[:, : side**2], theirs[:, : side**2], rtol=0, atol=1e-5)


def test_the_models_grid_decides_what_a_number_of_tokens_means():
    """65 tokens are one anchor of 8 x 8 regions or thirteen of 2 x 2; 17 are no anchor of 8 x 8."""
    target = torch.zeros(1, tiny.TRANSFORMER["in_channels"], 4, 4, 4)

    def turned(side, num_tokens):
        transformer = tiny.transformer(semantic_rope="grid", semantic_grid=side)
        return transformer._semantic_rotary(num_tokens, transformer.rope(target)[0], target.shape[2:])[0]

    one, thirteen = turned(8, 65), turned(2, 65)
    assert one.shape == thirteen.shape
    assert not torch.equal(one, thirteen)
    assert torch.equal(thirteen[:, :5], turned(2, 5))
    for side, num_tokens, wanted in ((8, 17, 65), (4, 65, 17)):
        with pytest.raises(
            ValueError, match=f"semantic_grid={side} an anchor frame has {wanted} .*multiple of {wanted}"
        ):
            turned(side, num_tokens)


@pytest.mark.parametrize("side", [0, -8, 4.0, "8"])
def test_a_grid_of_no_regions_is_refused(side):
    with pytest.raises(ValueError, match="semantic_grid must be a whole number of 1 or more"):
        SamaTransformer3DModel(**tiny.TRANSFORMER, semantic_grid=side)


def test_later_anchors_stand_later_on_the_grid():
    transformer = tiny.transformer(semantic_rope="grid")
    target = torch.zeros(1, transformer.config.in_channels, 3, 16, 16)
    cos, sin = transformer._semantic_rotary(2 * 65, transformer.rope(target)[0], target.shape[2:])
    last = transformer.rope(target)[0][:, -64:]
    torch.testing.assert_close(cos[:, 65:129], last, rtol=0, atol=1e-5)
    assert cos.shape == sin.shape == (1, 130, 1, transformer.config.attention_head_dim)


def test_what_small_models_have_changes_nothing_before_training():
    plain = tiny.transformer(prediction="around_source")
    model = tiny.transformer(prediction="around_source", absolute_positions=True, pooled_text=True, gated_source=True)
    model.load_state_dict(plain.state_dict(), strict=False)
    x = inputs()
    with torch.no_grad():
        torch.testing.assert_close(model(**x).sample, plain(**x).sample)


def test_rotary_factors_alone_do_not_tell_where_a_token_is():
    """On flat latents every token is alike, until tokens say where they are."""
    x = inputs(source=None, semantic=0) | {"hidden_states": torch.ones(1, 4, 3, 6, 8)}
    model = tiny.transformer(absolute_positions=True)

    def farthest_from_the_first():
        with torch.no_grad():
            tokens = rearrange(model(**x).sample, "1 c f (h p) (w q) -> (f h w) (c p q)", p=2, q=2)
        return (tokens[1:] - tokens[0]).abs().amax(dim=1)

    assert farthest_from_the_first().max() < 1e-5
    torch.nn.init.normal_(model.position_embedding.weight)
    assert farthest_from_the_first().min() > 1e-3


def test_a_position_means_the_same_at_every_size_and_length():
    small, large = absolute_positions((3, 4, 6)), absolute_positions((5, 12, 18))
    torch.testing.assert_close(large[::2, 1::3, 1::3], small)  # its centres are every third of the large grid's
    assert torch.equal(absolute_positions((1, 4, 6))[0], small[0])  # a picture is a clip's beginning


def test_every_position_is_told_apart():
    positions = absolute_positions((9, 30, 52)).flatten(0, 2)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.05


@pytest.mark.parametrize("per_token", [False, True])
def test_pooled_text_leaves_out_what_pads_the_prompt(per_token):
    model = tiny.transformer(pooled_text=True)
    torch.nn.init.normal_(model.pooled_text_embedding.weight)
    text = inputs()["encoder_hidden_states"]
    padded = torch.cat([text, torch.zeros(1, 5, 16)], dim=1)
    torch.testing.assert_close(_mean_of_text(padded), text.mean(dim=1))
    assert torch.equal(_mean_of_text(torch.zeros(1, 3, 16)), torch.zeros(1, 16))
    x = inputs(source=None, semantic=0)
    plain = tiny.transformer()
    if per_token:
        x["timestep"] = torch.full((1, 36), 700.0)
    with torch.no_grad():
        assert (model(**x).sample - plain(**x).sample).abs().max() > 1e-3


def test_a_gated_source_needs_a_prediction_around_the_source():
    with pytest.raises(ValueError, match='prediction="around_source"; set both or neither'):
        SamaTransformer3DModel(**tiny.TRANSFORMER, gated_source=True)


def test_a_gated_source_is_scaled_exactly():
    """The negative is -1 times the source: a weight of the source of 2, taken off the source."""
    model = tiny.transformer(prediction="around_source", gated_source=True, residual_std=[0.5, 1.0, 1.5, 2.0])
    gated = model.source_gate
    for parameter in (*gated.parameters(), *model.proj_out.parameters()):
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(gated.gate.bias)
    torch.nn.init.eye_(gated.read.weight)
    gated.write.weight.data.copy_(2 * torch.eye(*gated.write.weight.shape))
    x = inputs() | {"timestep": torch.tensor([1000.0])}
    with torch.no_grad():
        clean = x["hidden_states"] - model(**x).sample
        torch.testing.assert_close(clean, -x["source_hidden_states"])
        # Of a source on another grid no place is a target's.
        x["source_hidden_states"] = x["source_hidden_states"][:, :, :1]
        torch.testing.assert_close(x["hidden_states"] - model(**x).sample, torch.zeros_like(clean))


def test_save_and_load_of_what_small_models_have(tmp_path):
    model = tiny.transformer(prediction="around_source", absolute_positions=True, pooled_text=True, gated_source=True)
    for part in (model.position_embedding, model.pooled_text_embedding, model.source_gate.write):
        torch.nn.init.normal_(part.weight)
    model.save_pretrained(tmp_path)
    loaded = SamaTransformer3DModel.from_pretrained(tmp_path)
    x = inputs()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**x).sample, model(**x).sample)
