"""Every trainer's names for the same numbers give the same change, B @ A * alpha / rank."""

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)

from sama_video.models.lora_namings import convert_lora_state, is_lora
from sama_video.system.errors import UserError

WIDTH, FFN, RANK = 48, 64, 4
OFFICIAL = {
    "self_attn.q": "attn1.to_q", "self_attn.k": "attn1.to_k", "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0", "cross_attn.q": "attn2.to_q", "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v", "cross_attn.o": "attn2.to_out.0", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
}  # fmt: skip


def matrices(num_blocks=2, rank=RANK, seed=0):
    """`{(official, diffusers' module): (A, B)}` of all linear layers in the blocks."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for block in range(num_blocks):
        for official, own in OFFICIAL.items():
            wide_in, wide_out = {"ffn.0": (WIDTH, FFN), "ffn.2": (FFN, WIDTH)}.get(official, (WIDTH, WIDTH))
            down = torch.randn(rank, wide_in, generator=generator) * 0.05
            up = torch.randn(wide_out, rank, generator=generator) * 0.05
            found[f"blocks.{block}.{official}", f"blocks.{block}.{own}"] = down, up
    return found


def named(name, down="lora_down.weight", up="lora_up.weight", alpha=None, pairs=None):
    """A file's state: `name` makes a module's name of its official one and diffusers'."""
    state = {}
    for (official, own), (a, b) in (pairs or matrices()).items():
        key = name(official, own)
        state |= {f"{key}.{down}": a.clone(), f"{key}.{up}": b.clone()}
        state |= {} if alpha is None else {f"{key}.alpha": torch.tensor(float(alpha))}
    return state


def deltas(state):
    """B @ A by module, of a converted state."""
    modules = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
    return {
        m.removeprefix("transformer."): state[f"{m}.lora_B.weight"].double() @ state[f"{m}.lora_A.weight"].double()
        for m in modules
    }


def expected(factor=1.0, pairs=None):
    return {own: b.double() @ a.double() * factor for (_, own), (a, b) in (pairs or matrices()).items()}


def same(first, second, tolerance=1e-7):
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=tolerance)


PEFT = {"down": "lora_A.weight", "up": "lora_B.weight"}
ADAPTER = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}


def underscored(official, _):
    return official.replace(".", "_")


NAMINGS = {
    "DiffSynth": (lambda o, _: o, ADAPTER),
    "DiffSynth's pipe.dit": (lambda o, _: f"pipe.dit.{o}", ADAPTER),
    "AI-Toolkit": (lambda o, _: f"diffusion_model.{o}", PEFT),
    "ComfyUI": (lambda o, _: f"diffusion_model.{o}", {}),
    "a whole prefix": (lambda o, _: f"model.diffusion_model.{o}", {}),
    "musubi-tuner": (lambda o, _: f"lora_unet_{underscored(o, _)}", {}),
    "VideoX-Fun": (lambda o, _: f"lora_unet__{underscored(o, _)}", {}),
    "LyCORIS": (lambda _, d: f"lycoris_{underscored(d, _)}", {}),
    "diffusers": (lambda _, d: f"transformer.{d}", PEFT),
    "diffusers without a prefix": (lambda _, d: d, PEFT),
    "diffusers of old": (lambda _, d: f"transformer.{d}", {"down": "lora.down.weight", "up": "lora.up.weight"}),
    "OneTrainer": (lambda _, d: f"transformer.{d}", {}),
    "OneTrainer's underscores": (lambda _, d: f"lora_transformer_{underscored(d, _)}", {}),
    "peft": (lambda _, d: f"base_model.model.{d}", PEFT),
    "peft with the adapter's name": (lambda _, d: f"base_model.model.{d}", ADAPTER),
    "peft around Wan's own model": (lambda o, _: f"base_model.model.{o}", PEFT),
}


@pytest.mark.parametrize("alpha", [None, 2.0, 3.0, 16])
@pytest.mark.parametrize("naming", NAMINGS)
def test_the_change_is_that_of_the_numbers(naming, alpha):
    name, leaves = NAMINGS[naming]
    state = convert_lora_state(named(name, **leaves, alpha=alpha))
    same(deltas(state), expected(1.0 if alpha is None else alpha / RANK))
    assert all(key.startswith("transformer.blocks.") for key in state)
    again = convert_lora_state(state)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("naming", "convert"),
    [
        ("ComfyUI", _convert_non_diffusers_wan_lora_to_diffusers),
        ("AI-Toolkit", _convert_non_diffusers_wan_lora_to_diffusers),
        ("musubi-tuner", _convert_musubi_wan_lora_to_diffusers),
    ],
)
def test_diffusers_own_converters_agree(naming, convert):
    name, leaves = NAMINGS[naming]
    same(deltas(convert(named(name, **leaves, alpha=3))), deltas(convert_lora_state(named(name, **leaves, alpha=3))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_alpha_costs_no_precision(dtype):
    """A factor that the type cannot hold exactly makes the product float32."""
    pairs = {names: (a.to(dtype), b.to(dtype)) for names, (a, b) in matrices().items()}
    name, leaves = NAMINGS["ComfyUI"]
    for alpha in (2, 3):
        state = convert_lora_state(named(name, **leaves, alpha=alpha, pairs=pairs))
        same(deltas(state), expected(alpha / RANK, pairs))
    halved = convert_lora_state(named(name, **leaves, alpha=2, pairs=pairs))
    if dtype == torch.bfloat16:
        assert {value.dtype for value in halved.values()} == {dtype}


def test_each_module_has_its_own_rank_and_alpha():
    pairs = matrices(1, 2) | {key: value for key, value in matrices(2, 6).items() if key[0].startswith("blocks.1")}
    name, leaves = NAMINGS["musubi-tuner"]
    state = named(name, **leaves, pairs=pairs)
    state["lora_unet_blocks_1_self_attn_q.alpha"] = torch.tensor(3.0)
    state["lora_unet_blocks_0_ffn_0.alpha"] = torch.tensor([1.0])
    result = expected(1.0, pairs)
    result["blocks.1.attn1.to_q"] *= 3 / 6
    result["blocks.0.ffn.net.0.proj"] *= 1 / 2
    same(deltas(convert_lora_state(state)), result)


def test_some_modules_or_blocks_alone():
    """As trainers write that train attention alone, or the last blocks; diffusers' converters fail on these."""
    pairs = {key: value for key, value in matrices(3).items() if key[0] in ("blocks.1.self_attn.q", "blocks.2.ffn.2")}
    for naming in ("musubi-tuner", "ComfyUI", "VideoX-Fun"):
        name, leaves = NAMINGS[naming]
        same(deltas(convert_lora_state(named(name, **leaves, alpha=1, pairs=pairs))), expected(1 / RANK, pairs))


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"r": RANK, "lora_alpha": 6}, 6 / RANK),
        ({"r": RANK, "lora_alpha": 6, "use_rslora": True}, 6 / RANK**0.5),
        ({"r": RANK, "lora_alpha": 6, "alpha_pattern": {"blocks.0.attn1.to_q": 1, "nothing": 100}}, 6 / RANK),
        ({"r": RANK, "lora_alpha": 6, "alpha_pattern": {r"^blocks\.0\.attn1\.to_q": 1}}, 6 / RANK),
        ({}, 1),
    ],
)
def test_peft_s_configuration_counts(config, factor):
    name, leaves = NAMINGS["peft"]
    result = expected(factor)
    if "alpha_pattern" in config:
        result["blocks.0.attn1.to_q"] *= 1 / 6
    same(deltas(convert_lora_state(named(name, **leaves), config)), result)


def test_other_layers_than_those_of_blocks():
    pairs = {
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "patch_embedding": "patch_embedding",
        "siglip_feat_mlp.fc1": "semantic_projector.fc1",
    }
    for official, own in pairs.items():
        for key in (f"diffusion_model.{official}", f"lora_unet_{official.replace('.', '_')}"):
            state = convert_lora_state({f"{key}.lora_down.weight": torch.ones(2, 3), f"{key}.lora_up.weight":
                                        torch.ones(5, 2), f"{key}.alpha": torch.tensor(1.0)})  # fmt: skip
            assert state.keys() == {f"transformer.{own}.lora_A.weight", f"transformer.{own}.lora_B.weight"}


def test_changes_of_biases_norms_and_tables():
    """lightx2v's and CausVid's files; `diff_m` is a change of the modulation table."""
    prefix = "diffusion_model."
    changes = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.diff_b",
        "blocks.0.norm3.diff": "blocks.0.norm2.diff",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.diff_b",
        "blocks.1.self_attn.norm_q.diff": "blocks.1.attn1.norm_q.diff",
        "blocks.1.cross_attn.norm_k.w_norm": "blocks.1.attn2.norm_k.diff",
        "blocks.0.diff_m": "blocks.0.scale_shift_table.diff",
        "blocks.1.modulation.diff": "blocks.1.scale_shift_table.diff",
        "head.diff_m": "scale_shift_table.diff",
        "head.head.diff": "proj_out.diff",
        "head.head.diff_b": "proj_out.diff_b",
        "patch_embedding.diff_b": "patch_embedding.diff_b",
        "time_projection.1.diff_b": "condition_embedder.time_proj.diff_b",
        "text_embedding.2.diff_b": "condition_embedder.text_embedder.linear_2.diff_b",
    }
    values = {key: torch.full((2,), float(number)) for number, key in enumerate(changes)}
    name, leaves = NAMINGS["ComfyUI"]
    low_rank = named(name, **leaves, alpha=2)
    state = convert_lora_state(low_rank | {prefix + key: value for key, value in values.items()})
    assert state.keys() - convert_lora_state(low_rank).keys() == {f"transformer.{own}" for own in changes.values()}
    for key, own in changes.items():
        assert torch.equal(state[f"transformer.{own}"], values[key])
    alone = convert_lora_state({prefix + key: value for key, value in values.items()})
    assert alone.keys() == {f"transformer.{own}" for own in changes.values()}


def test_a_bias_of_the_second_matrix_is_a_change_of_the_bias():
    """peft's `lora_bias`: (B x + bias) * alpha / rank."""
    name, leaves = NAMINGS["peft"]
    pairs = {("blocks.0.self_attn.q", "blocks.0.attn1.to_q"): (torch.ones(4, 48), torch.ones(48, 4))}
    state = named(name, **leaves, pairs=pairs) | {
        "base_model.model.blocks.0.attn1.to_q.lora_B.bias": torch.ones(48),
    }
    converted = convert_lora_state(state, {"lora_alpha": 2})
    assert torch.equal(converted["transformer.blocks.0.attn1.to_q.diff_b"], torch.full((48,), 0.5))


def test_sama_s_small_parts_whole_under_either_name():
    for key in ("transformer.type_embedding.weight", "segment_embedding.weight", "pipe.dit.segment_embedding.weight"):
        state = convert_lora_state({key: torch.ones(3, 4)} | named(NAMINGS["DiffSynth"][0], **ADAPTER))
        assert torch.equal(state["transformer.type_embedding.weight"], torch.ones(3, 4))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("diffusion_model.blocks.0.self_attn.q.dora_scale", "is a DoRA file"),
        ("base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector", "is a DoRA file"),
        ("base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector.default.weight", "is a DoRA file"),
        ("lycoris_blocks_0_attn1_to_q.lokr_w1", "is a LoKr file"),
        ("lora_unet_blocks_0_self_attn_q.lokr_w2_a", "is a LoKr file"),
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "is a LoHa file"),
        ("base_model.model.blocks.0.ffn.net.2.ia3_l", "is an IA3 file"),
        ("lora_unet_blocks_0_self_attn_q.oft_blocks", "is an OFT file"),
        ("lora_unet_patch_embedding.lora_mid.weight", "further factors"),
        ("diffusion_model.patch_embedding.set_weight", "also replaces weights"),
        ("diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight", "parts of an image-to-video model"),
        ("lora_unet_blocks_0_cross_attn_v_img.lora_down.weight", "parts of an image-to-video model"),
        ("diffusion_model.blocks.0.cross_attn.norm_k_img.diff", "parts of an image-to-video model"),
        ("diffusion_model.img_emb.proj.1.lora_A.weight", "parts of an image-to-video model"),
        ("transformer.blocks.0.attn2.add_k_proj.lora_A.weight", "parts of an image-to-video model"),
        ("vace_blocks.0.self_attn.q.lora_A.weight", "parts of a VACE model"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "second expert"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "changes the text encoder"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "changes the text encoder"),
        ("text_encoder.encoder.block.0.lora_A.weight", "changes the text encoder"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "another family"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "another family"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", "another family"),
    ],
)
def test_other_kinds_are_named(key, words):
    assert is_lora([key])
    for beside in ({}, named(NAMINGS["ComfyUI"][0])):
        with pytest.raises(UserError) as caught:
            convert_lora_state(beside | {key: torch.ones(2, 2)})
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


Q = "blocks.0.self_attn.q"
PAIR = {f"{Q}.lora_A.weight": torch.ones(2, 48), f"{Q}.lora_B.weight": torch.ones(48, 2)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"blocks.0.nothing.lora_A.weight": torch.ones(2, 48)}, "unknown: blocks.0.nothing.lora_A"),
        (lambda s: s | {"lora_unet_blocks_0_nothing.alpha": torch.ones(())}, "unknown: lora_unet_blocks_0_nothing"),
        (lambda s: s | {"blocks.0.self_attn.q.weight": torch.ones(2)}, "unknown: blocks.0.self_attn.q.weight"),
        (lambda s: dict([next(iter(s.items()))]), "missing: blocks.0.attn1.to_q.lora_B"),
        (lambda s: s | {"blocks.1.self_attn.q.alpha": torch.ones(())}, "missing: blocks.1.attn1.to_q.lora_A"),
        (lambda _: {}, "is not a LoRA of a Wan or SAMA transformer"),
        (lambda s: s | {f"{Q}.lora_B.weight": torch.ones(48, 3)}, "do not fit each other: (2, 48)"),
        (lambda s: s | {f"{Q}.lora_B.weight": torch.ones(48)}, "do not fit each other"),
        (lambda s: s | {f"{Q}.alpha": torch.ones(2)}, "not one number"),
        (lambda s: s | {f"{Q}.alpha": torch.tensor(torch.nan)}, "the alpha of blocks.0.attn1.to_q is"),
        (lambda s: {key: value * torch.inf for key, value in s.items()}, "values that are no numbers"),
        (lambda s: {key: value.int() for key, value in s.items()}, "not floating point"),
        (lambda s: s | {k.replace("self_attn.q", "attn1.to_q"): v for k, v in s.items()}, "says twice"),
        (lambda s: s | {k.replace("lora_A", "lora_A.b").replace("lora_B", "lora_B.b").replace(".0.", ".1."): v
                        for k, v in s.items()}, "holds several adapters"),
        (lambda _: {"patch_embedding.weight": torch.ones(2)}, "this is a whole model and not a LoRA"),
    ],
)  # fmt: skip
def test_what_is_no_lora(change, words):
    with pytest.raises(UserError) as caught:
        convert_lora_state(change(PAIR))
    assert words in str(caught.value)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"lora_alpha": "many"}, {"lora_alpha": None}])
def test_configurations_that_do_not_fit(config):
    with pytest.raises(UserError, match=r"DoRA|is not a number"):
        convert_lora_state(PAIR, config)
