"""Models between the official names and diffusers', both directions, strict.

Readable: a released SAMA checkpoint and original Wan 2.1 / 2.2 transformers (DiffSynth names), `Wan2.1_VAE.pth`,
`Wan2.2_VAE.pth`, `models_t5_umt5-xxl-enc-bf16.pth`, each in any file of `checkpoint_files`. Sizes are inferred from
shapes. Unknown, missing or misshapen keys are listed by name.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from transformers import UMT5Config, UMT5EncoderModel

from ..system.errors import UserError
from .checkpoint_files import StateDict, Weights, header_entry, read_weights
from .foreign_weights import TEXT_ENCODER, TRANSFORMER, VAE, refuse_foreign
from .official_names import SAMA_KEYS, TEXT_ENCODER_KEYS, TRANSFORMER_KEYS, WAN22_VAE_LATENTS, renamer, vae_keys
from .presets import PRESETS, preset_of
from .strict_loading import load_strictly, make_empty
from .transformer_sama import SamaTransformer3DModel
from .weight_files import listed

# What shapes do not say of a model; files of ours have it in their headers, which other programs ignore.
_HEADER_KEY = "sama_config"
# One tensor under two names, stored once.
TIED = "encoder.embed_tokens.weight"


def official_header(config: Mapping[str, Any], **more: Mapping[str, Any]) -> dict[str, str]:
    """Of a file with official names: the part's whole configuration, and `more` entries."""
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    return {"format": "pt", _HEADER_KEY: json.dumps(public)} | {key: json.dumps(value) for key, value in more.items()}


def _rename_all(state: StateDict, rename: Callable[[str], str | None], what: str) -> StateDict:
    """Raises UserError for names that have no other."""
    renamed = {key: rename(key) for key in state}
    if unknown := [key for key, name in renamed.items() if name is None]:
        raise UserError(f"this is not {what}; nothing was converted. unknown: {listed(unknown)}")
    return {str(renamed[key]): value for key, value in state.items()}


def _need(state: StateDict, what: str, dimensions: Mapping[str, int]) -> None:
    """Raises UserError unless the weights that tell sizes are there, with these numbers of dimensions."""
    if missing := dimensions.keys() - state.keys():
        raise UserError(f"this is not {what}; nothing was converted. missing: {listed(missing)}")
    shapes = {key: tuple(state[key].shape) for key in dimensions}
    if odd := [f"{key} {shape}" for key, shape in shapes.items() if len(shape) != dimensions[key] or 0 in shape]:
        raise UserError(f"this is not {what}; nothing was converted. misshapen: {listed(odd)}")


def _infer_transformer_config(state: StateDict, num_attention_heads: int | None = None) -> dict:
    """Constructor arguments of the transformer whose official state dict this is (head width 128 unless told).

    Raises:
        UserError: if a key that tells a size is missing, blocks are, or the heads do not divide the width.
    """
    sizes = {"patch_embedding.weight": 5, "text_embedding.0.weight": 2, "time_embedding.0.weight": 2}
    _need(state, TRANSFORMER, sizes | {"blocks.0.ffn.0.weight": 2, "head.head.weight": 2})
    width, channels, *patch = state["patch_embedding.weight"].shape
    heads = num_attention_heads or width // 128
    if heads < 1 or width % heads or (width // heads) % 2:
        raise UserError(f"a width of {width} does not split into {heads} heads of even width: give the number of heads")
    config = {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": state["head.head.weight"].shape[0] // math.prod(patch),
        "text_dim": state["text_embedding.0.weight"].shape[1],
        "freq_dim": state["time_embedding.0.weight"].shape[1],
        "ffn_dim": state["blocks.0.ffn.0.weight"].shape[0],
        "num_layers": _count_blocks(state, TRANSFORMER),
    }
    if "siglip_feat_mlp.fc1.weight" in state:
        _need(state, TRANSFORMER, {"siglip_feat_mlp.fc1.weight": 2})
        config["semantic_hidden_dim"], config["semantic_dim"] = state["siglip_feat_mlp.fc1.weight"].shape
    return config


def _count_blocks(state: StateDict, what: str) -> int:
    """Raises UserError unless they are numbered from 0 without a gap."""
    numbers = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d{1,6})\.", key))}
    if not numbers or numbers != set(range(len(numbers))):
        lacking = sorted(set(range(max(numbers, default=0))) - numbers)
        raise UserError(f"this is not {what}; nothing was converted. missing blocks: {listed(map(str, lacking))}")
    return len(numbers)


def _unwrapped(weights: Weights, anchors: tuple[str, ...]) -> StateDict:
    """The tensors below whatever prefix a tool put before all names, such as `model.diffusion_model.`.

    The model is recognised by one of its names, an anchor.

    Raises:
        UserError: for several models in one file.
    """
    found = [(key, anchor) for key in weights.state for anchor in anchors if f".{key}".endswith(f".{anchor}")]
    prefixes = {key.removesuffix(anchor) for key, anchor in found}
    if len(prefixes) > 1:
        raise UserError(f"{weights.where} holds several models: {listed(prefixes)}; save one of them alone")
    prefix = prefixes.pop() if prefixes else ""
    others = {key.split(".")[0] for key in weights.state if not key.startswith(prefix)}
    if others:
        weights.notes.append(f"{weights.where.name} also holds other parts, which were left out: {listed(others)}")
    return {key.removeprefix(prefix): value for key, value in weights.state.items() if key.startswith(prefix)}


def _as_weights(path: str | Path | Weights) -> Weights:
    return path if isinstance(path, Weights) else read_weights(path)


def load_official_transformer(
    path: str | Path | Weights, num_attention_heads: int | None = None
) -> SamaTransformer3DModel:
    """A released SAMA checkpoint, or an original Wan text-to-video one (then SAMA's parts start untrained).

    Args:
        path: file, folder of shards, or what was read from them, with DiffSynth's key names.
        num_attention_heads: of a file whose header does not say it; width / 128 when None.

    Raises:
        UserError: listing every key that does not fit, or saying what else the file is; for a model that predicts
            around the source, if the header is gone that says how wide.
    """
    weights = _as_weights(path)
    state = _unwrapped(weights, ("patch_embedding.weight",))
    refuse_foreign(state, weights.where, TRANSFORMER)
    if "condition_embedder.text_embedder.linear_1.weight" in state:
        raise UserError(
            f"{weights.where} has diffusers' names, and its settings are in the config.json that came with it; give "
            "the folder that holds both"
        )
    header = header_entry(weights.header, _HEADER_KEY)
    heads = header.get("num_attention_heads", num_attention_heads)
    if not isinstance(heads, int | None):
        raise UserError(f"the header of {weights.where} says {heads!r} attention heads; get the file again")
    config = _whole_config(_infer_transformer_config(state, heads), header, heads is not None, weights)
    _check_channels(config, weights.where)
    _check_spreads(config, weights.where)
    state = _rename_all(state, renamer(TRANSFORMER_KEYS), TRANSFORMER)
    return build_transformer(state, config, is_stock=not any(key.startswith(SAMA_KEYS) for key in state))


def _whole_config(
    inferred: Mapping[str, Any], header: Mapping[str, Any], heads_are_known: bool, weights: Weights
) -> dict[str, Any]:
    """What shapes tell; for the rest what the header says, else what the preset of these sizes has."""
    name = preset_of(inferred)
    known = {} if name is None else dict(PRESETS[name].transformer)
    config = known | dict(header) | dict(inferred)
    if heads_are_known:
        return config
    if known:
        return config | {key: known[key] for key in ("num_attention_heads", "attention_head_dim")}
    weights.notes.append(
        f"{weights.where.name} does not say its number of heads, and its size is none that is known; "
        f"{config['num_attention_heads']} heads of width {config['attention_head_dim']} were assumed: pass "
        "`num_attention_heads` if that is wrong"
    )
    return config


def _check_channels(config: Mapping[str, Any], where: Path) -> None:
    given, taken = config["in_channels"], config["out_channels"]
    if given != taken:
        raise UserError(
            f"{where} is an image-to-video, inpainting or control model: it takes {given} channels for {taken} that it "
            f"predicts; SAMA has no place for the others; convert the text-to-video model"
        )


def _check_spreads(config: Mapping[str, Any], where: Path) -> None:
    """What such a model was trained with is in no weight, and any other value would edit a little wrong."""
    if config.get("prediction") == "around_source" and config.get("residual_std") is None:
        raise UserError(
            f"{where} is a small model that predicts around the source, and the header that says how wide is gone; "
            "give the file that `sama convert` wrote, or the model's folder"
        )


def build_transformer(state: StateDict, config: Mapping[str, Any], *, is_stock: bool) -> SamaTransformer3DModel:
    """Of a state under diffusers' names; a stock Wan's gets new parts that leave it Wan.

    Raises:
        UserError: listing every key that does not fit.
    """
    model = make_empty(SamaTransformer3DModel, config, TRANSFORMER)
    load_strictly(model, state, TRANSFORMER, may_miss=SAMA_KEYS if is_stock else ())
    # The rotary tables are buffers that no checkpoint holds.
    model.rope = WanRotaryPosEmbed(
        model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len
    )
    if is_stock:
        model.reset_new_parts(like=model.proj_out.weight)
    return model.eval()


def official_transformer_state(model: SamaTransformer3DModel) -> StateDict:
    """The state dict under the official release's names, the inverse of [`load_official_transformer`].

    Raises:
        UserError: for a model whose streams the release's code cannot take in.
    """
    if (model.config.roles, model.config.source) != ("type", "token"):
        raise UserError(
            f"the official names are for type embeddings and a source by token, and this model has "
            f"roles={model.config.roles}, source={model.config.source}; keep its diffusers folder"
        )
    return _rename_all(model.state_dict(), renamer(TRANSFORMER_KEYS, reverse=True), "a SAMA transformer")


def _is_wan22_vae(state: StateDict) -> bool:
    return any(key.startswith("encoder.downsamples.0.downsamples.") for key in state)


def load_official_vae(path: str | Path | Weights) -> AutoencoderKLWan:
    """`Wan2.1_VAE.pth` or `Wan2.2_VAE.pth` (or the same keys in another file) as diffusers' class.

    Raises:
        UserError: listing every key that does not fit, or saying what else the file is.
    """
    weights = _as_weights(path)
    state = _unwrapped(weights, ("encoder.conv1.weight",))
    refuse_foreign(state, weights.where, VAE)
    sizes = ("encoder.conv1.weight", "decoder.head.2.weight", "conv1.weight", "conv2.weight")
    _need(state, VAE, dict.fromkeys(sizes, 5))
    config = header_entry(weights.header, _HEADER_KEY) or _infer_vae_config(state)
    state = _rename_all(state, renamer(vae_keys(_is_wan22_vae(state))), VAE)
    return build_vae(AutoencoderKLWan, state, config)


def _infer_vae_config(state: StateDict) -> dict[str, Any]:
    config: dict[str, Any] = {
        "base_dim": state["encoder.conv1.weight"].shape[0],
        "z_dim": state["conv2.weight"].shape[0],
    }
    if not _is_wan22_vae(state):
        return config
    config |= {
        "decoder_base_dim": state["decoder.head.2.weight"].shape[1],
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "is_residual": True,
        "scale_factor_spatial": 16,
    }
    is_released = config["z_dim"] == len(WAN22_VAE_LATENTS["latents_mean"])
    return config | (WAN22_VAE_LATENTS if is_released else {})


def build_vae(vae_class: type, state: StateDict, config: Mapping[str, Any]) -> Any:
    """Of a state under diffusers' names.

    Raises:
        UserError: listing every key that does not fit.
    """
    vae = make_empty(vae_class, config, VAE)
    load_strictly(vae, state, VAE)
    return vae.eval()


def official_vae_state(vae: AutoencoderKLWan) -> StateDict:
    """The VAE's state dict under Wan's names, the inverse of [`load_official_vae`]."""
    keys = vae_keys(wan22=bool(vae.config.is_residual))
    return _rename_all(vae.state_dict(), renamer(keys, reverse=True), VAE)


def load_official_text_encoder(path: str | Path | Weights) -> UMT5EncoderModel:
    """`models_t5_umt5-xxl-enc-bf16.pth` as transformers' class; ComfyUI's files, of transformers' names, too.

    Raises:
        UserError: listing every key that does not fit, or saying what else the file is.
    """
    weights = _as_weights(path)
    state = _unwrapped(weights, ("token_embedding.weight", "shared.weight"))
    refuse_foreign(state, weights.where, TEXT_ENCODER)
    if "shared.weight" in state:
        # ComfyUI puts the tokenizer in as well.
        plain = {key: value for key, value in state.items() if key not in (TIED, "spiece_model")}
        state = _rename_all(plain, renamer(TEXT_ENCODER_KEYS, reverse=True), TEXT_ENCODER)
    sizes = {"token_embedding.weight": 2, "blocks.0.ffn.fc1.weight": 2, "blocks.0.attn.q.weight": 2}
    _need(state, TEXT_ENCODER, sizes | {"blocks.0.pos_embedding.embedding.weight": 2})
    config = header_entry(weights.header, _HEADER_KEY) or _infer_text_encoder_config(state)
    return build_text_encoder(_rename_all(state, renamer(TEXT_ENCODER_KEYS), TEXT_ENCODER), config)


def _infer_text_encoder_config(state: StateDict) -> dict[str, Any]:
    buckets, heads = state["blocks.0.pos_embedding.embedding.weight"].shape
    vocab_size, width = state["token_embedding.weight"].shape
    return {
        "vocab_size": vocab_size,
        "d_model": width,
        "d_kv": state["blocks.0.attn.q.weight"].shape[0] // heads,
        "d_ff": state["blocks.0.ffn.fc1.weight"].shape[0],
        "num_layers": _count_blocks(state, TEXT_ENCODER),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }


def build_text_encoder(state: StateDict, config: Mapping[str, Any]) -> UMT5EncoderModel:
    """Of a state under transformers' names.

    Raises:
        UserError: listing every key that does not fit.
    """
    text_encoder = make_empty(
        lambda **arguments: UMT5EncoderModel(UMT5Config.from_dict(arguments)), config, TEXT_ENCODER
    )
    if "shared.weight" in state:
        state = state | {TIED: state["shared.weight"]}
    load_strictly(text_encoder, state, TEXT_ENCODER)
    text_encoder.tie_weights()
    return text_encoder.eval()


def official_text_encoder_state(text_encoder: UMT5EncoderModel) -> StateDict:
    """The encoder's state dict under Wan's names, the inverse of [`load_official_text_encoder`]."""
    state = {key: value for key, value in text_encoder.state_dict().items() if key != TIED}
    return _rename_all(state, renamer(TEXT_ENCODER_KEYS, reverse=True), TEXT_ENCODER)
