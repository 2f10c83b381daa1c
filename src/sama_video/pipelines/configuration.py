"""What the JSON files of a pipeline's folder may say, checked before any weight is read. Imports no torch.

`model_index.json` names classes: only those of `check_components` are ever looked up, in the libraries that have them,
so a folder cannot have anything else imported.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..models.official_names import STOCK_WAN
from ..models.shapes import is_valid_num_frames
from ..models.weight_files import listed
from ..system.errors import UserError

# Component -> (library, pattern of the class). What a pipeline may be without is [null, null] or absent.
_SAMA_TRANSFORMER = ("sama_video.models.transformer_sama", "SamaTransformer3DModel")
NANO_VAE = ("sama_video.models.autoencoder_sama_nano", "AutoencoderSamaNano")
_COMPONENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "transformer": (_SAMA_TRANSFORMER,),
    "vae": (NANO_VAE, ("diffusers", "AutoencoderKLWan")),
    "text_encoder": (("transformers", "UMT5EncoderModel"),),
    "tokenizer": (("transformers", r"\w*Tokenizer(Fast)?|TokenizersBackend"),),
    "scheduler": (("diffusers", r"\w+Scheduler"),),
}
_OPTIONAL = ("text_encoder", "tokenizer", "scheduler")
PIPELINE = "SamaPipeline"
# Class -> library, of those that diffusers has not got.
OWN_CLASSES = {class_name: library for library, class_name in (_SAMA_TRANSFORMER, NANO_VAE)}
# Where a folder's own copies are, see `portable_code.py`: of the pipeline, as diffusers looks for it in a folder that
# is given as `custom_pipeline`, and of the other classes.
PORTABLE_PIPELINE, PORTABLE_MODULE = "pipeline", "sama"

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Rule:
    """What an entry must be: a test and its words."""

    holds: Check
    words: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(least: int, most: int) -> Rule:
    return Rule(lambda value: _is_whole(value) and least <= value <= most, f"a whole number from {least} to {most}")


def number(least: float, most: float) -> Rule:
    return Rule(lambda value: _is_number(value) and least <= value <= most, f"a number from {least:g} to {most:g}")


def positive(most: float) -> Rule:
    return Rule(lambda value: _is_number(value) and 0 < value <= most, f"a number above 0, at most {most:g}")


def one_of(*values: Any) -> Rule:
    return Rule(lambda value: any(value == one and type(value) is type(one) for one in values), _either(values))


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join("null" if value is None else repr(value) for value in values)


def _none_or(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.holds(value), f"null or {rule.words}")


def each(rule: Rule, length: int | None = None) -> Rule:
    def holds(values: Any) -> bool:
        return isinstance(values, list | tuple) and (length in (None, len(values))) and all(map(rule.holds, values))

    return Rule(holds, f"a list{'' if length is None else f' of {length}'}, each {rule.words}")


_TRUTH = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str) and len(value) <= 10_000, "a text")
WIDTH, LAYERS = whole(1, 2**20), whole(1, 1000)

SETTINGS = {
    "native_area": whole(1, 2**26),
    "native_num_frames": Rule(
        lambda value: _is_whole(value) and value <= 100_001 and is_valid_num_frames(value),
        "a whole number 4k+1, at least 1",
    ),
    "default_num_inference_steps": whole(1, 10_000),
    "default_guidance_scale": number(0, 1000),
    "default_flow_shift": positive(1000),
    "prompt_prefix": TEXT,
    "max_sequence_length": whole(1, 2**16),
    "num_semantic_tokens": whole(0, 10**6),
    "trained_for": Rule(
        lambda value: isinstance(value, Mapping) and all(each(TEXT).holds(texts) for texts in value.values()),
        "names, each with a list of texts",
    ),
}
TRANSFORMER = {
    "patch_size": each(whole(1, 64), 3),
    "num_attention_heads": whole(1, 1024),
    "attention_head_dim": Rule(
        lambda value: _is_whole(value) and 2 <= value <= 4096 and value % 2 == 0, "an even number from 2 to 4096"
    ),
    "in_channels": whole(1, 4096),
    "out_channels": whole(1, 4096),
    "text_dim": WIDTH,
    "freq_dim": WIDTH,
    "ffn_dim": WIDTH,
    "num_layers": LAYERS,
    "cross_attn_norm": _TRUTH,
    "qk_norm": one_of("rms_norm_across_heads"),
    "eps": positive(1),
    "rope_max_seq_len": whole(1, 2**20),
}
_NEW_TRANSFORMER = {
    "semantic_dim": WIDTH,
    "semantic_hidden_dim": WIDTH,
    "semantic_rope": one_of("zero", "identity", "grid"),
}
# Not in the first folders that were written; without them the class's defaults hold, which those models have.
_LATER_TRANSFORMER = {
    "semantic_grid": whole(1, 1024),
    "semantic_prediction": one_of("velocity", "clean"),
    "roles": one_of("type", "shifted_rope"),
    "source": one_of("token", "channel"),
    "prediction": one_of("velocity", "around_source"),
    "residual_std": _none_or(each(positive(1e6))),
    "latents_std": _none_or(each(positive(1e6))),
    "image_dim": _none_or(WIDTH),
    "added_kv_proj_dim": _none_or(WIDTH),
    "pos_embed_seq_len": _none_or(WIDTH),
}
NANO = {
    "z_dim": whole(1, 4096),
    "decoder_width": Rule(lambda value: WIDTH.holds(value) and value % 8 == 0, "a whole number that divides by 8"),
    "decoder_layers": whole(0, 1000),
    "latents_mean": each(number(-1e6, 1e6)),
    "latents_std": each(positive(1e6)),
    "scale_factor_temporal": one_of(4),
    "scale_factor_spatial": one_of(8),
}
WAN = {
    "base_dim": WIDTH,
    "z_dim": whole(1, 4096),
    "dim_mult": each(whole(1, 64)),
    "num_res_blocks": LAYERS,
    "temperal_downsample": each(_TRUTH),
    "latents_mean": each(number(-1e6, 1e6)),
    "latents_std": each(positive(1e6)),
}
# diffusers' first Wan folders have only the above.
_LATER_WAN = {
    "decoder_base_dim": _none_or(WIDTH),
    "attn_scales": each(number(0, 1e6)),
    "dropout": number(0, 1),
    "is_residual": _TRUTH,
    "in_channels": whole(1, 4096),
    "out_channels": whole(1, 4096),
    "patch_size": _none_or(whole(1, 64)),
    "scale_factor_temporal": one_of(4),
    "scale_factor_spatial": whole(1, 64),
}
TEXT_ENCODER = {
    "model_type": one_of("umt5"),
    "vocab_size": whole(1, 2**24),
    "d_model": WIDTH,
    "d_kv": WIDTH,
    "d_ff": WIDTH,
    "num_layers": LAYERS,
    "num_heads": whole(1, 1024),
    "relative_attention_num_buckets": whole(2, 2**16),
    "layer_norm_epsilon": positive(1),
    "feed_forward_proj": one_of("gated-gelu"),  # as every UMT5 has it; another's weights would look the same
}
_LATER_TEXT_ENCODER = {
    "tie_word_embeddings": one_of(True),
    "is_decoder": one_of(False),
    "relative_attention_max_distance": whole(2, 2**20),
    "dropout_rate": number(0, 1),
}
_SCHEDULER = {
    "num_train_timesteps": one_of(1000),  # the time convention of `models/transformer_sama.py`
    "shift": positive(1000),
    "flow_shift": positive(1000),
    "use_dynamic_shifting": _TRUTH,
}
HOW = "download the model again, or correct the file"


def broken_rules(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """What of `values` is not as `rules` say; entries that are not there break none."""
    return [
        f"{name} is {_shown(values[name])} and must be {rule.words}"
        for name, rule in rules.items()
        if name in values and not rule.holds(values[name])
    ]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_entries(
    where: str, values: Mapping[str, Any], required: Mapping[str, Rule], later: Mapping[str, Rule]
) -> None:
    """Raises UserError for a configuration that lacks an entry or has one out of its range."""
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where} lacks {listed(missing)}; {HOW}")
    if problems := broken_rules(values, {**required, **later}):
        raise UserError(f"{where}: {'; '.join(problems[:3])}; {HOW}")


def without_code(index: Mapping[str, Any]) -> dict[str, Any]:
    """A `model_index.json` with this package's classes in the place of those that its folder brings."""
    own = dict(index)
    if own.get("_class_name") == [PORTABLE_PIPELINE, PIPELINE]:
        own["_class_name"] = PIPELINE
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == PORTABLE_MODULE and entry[1] in OWN_CLASSES:
            own[name] = [OWN_CLASSES[entry[1]], entry[1]]
    return own


def components_of(where: str, index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Component -> (library, class) of a `model_index.json`, those that there are.

    Raises:
        UserError: for another pipeline, a class that a SAMA pipeline does not have, or a component that is missing.
    """
    kind = index.get("_class_name")
    if kind != PIPELINE:
        raise UserError(
            f"{where} is of a pipeline {_shown(kind)}, not a {PIPELINE}; make it one with 'sama convert' if it is a "
            f"Wan text-to-video model"
        )
    return {name: pair for name in _COMPONENTS if (pair := _component(where, name, index.get(name))) is not None}


def _component(where: str, name: str, entry: Any) -> tuple[str, str] | None:
    if entry in (None, [None, None]) and name in _OPTIONAL:
        return None
    if entry is None:
        raise UserError(f"{where} names no {name}; {HOW}")
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        raise UserError(f"{where}: {name} is {_shown(entry)} and must be a library and a class; {HOW}")
    library, class_name = entry
    if not any(library == known and re.fullmatch(pattern, class_name) for known, pattern in _COMPONENTS[name]):
        raise UserError(
            f"{where}: {name} is {_shown(class_name)} of {_shown(library)}, which a {PIPELINE} cannot take; {HOW}"
        )
    return library, class_name


def check_settings(where: str, index: Mapping[str, Any]) -> None:
    """Raises UserError for a setting of a `model_index.json` that is out of its range; what is absent has a default."""
    _check_entries(where, index, {}, SETTINGS)


def check_transformer(where: str, config: Mapping[str, Any], *, may_be_stock: bool = False) -> None:
    """Raises UserError for another class's configuration, and for one that is incomplete or out of range.

    Args:
        may_be_stock: diffusers' Wan transformer, whose folder lacks all that SAMA adds, will do as well.
    """
    if may_be_stock and config.get("_class_name") == STOCK_WAN:
        _check_entries(where, config, TRANSFORMER, _LATER_TRANSFORMER)
        return
    _check_class(where, config, _SAMA_TRANSFORMER[1])
    _check_entries(where, config, {**TRANSFORMER, **_NEW_TRANSFORMER}, _LATER_TRANSFORMER)


def check_vae(where: str, config: Mapping[str, Any], class_name: str) -> None:
    """Raises UserError as `check_transformer` does."""
    _check_class(where, config, class_name)
    nano = class_name == NANO_VAE[1]
    _check_entries(where, config, NANO if nano else WAN, {} if nano else _LATER_WAN)
    for name in ("latents_mean", "latents_std"):
        if name in config and len(config[name]) != config["z_dim"]:
            raise UserError(f"{where}: {name} has {len(config[name])} values for z_dim={config['z_dim']}; {HOW}")


def check_text_encoder(where: str, config: Mapping[str, Any]) -> None:
    """Raises UserError as `check_transformer` does."""
    _check_entries(where, config, TEXT_ENCODER, _LATER_TEXT_ENCODER)


def check_scheduler(where: str, config: Mapping[str, Any], class_name: str) -> None:
    """Raises UserError as `check_transformer` does."""
    _check_class(where, config, class_name)
    _check_entries(where, config, {}, _SCHEDULER)


def _check_class(where: str, config: Mapping[str, Any], class_name: str) -> None:
    if config.get("_class_name") != class_name:
        raise UserError(f"{where} is of class {_shown(config.get('_class_name'))} and must be of {class_name}; {HOW}")


def check_together(
    folder: str, transformer: Mapping[str, Any], vae: Mapping[str, Any], text_encoder: Mapping[str, Any] | None
) -> None:
    """Raises UserError for parts that are each as they must be and do not fit each other."""
    pairs = [
        ("the transformer's in_channels", transformer["in_channels"], "the VAE's z_dim", vae["z_dim"]),
        ("the transformer's out_channels", transformer["out_channels"], "its in_channels", transformer["in_channels"]),
    ]
    if text_encoder is not None:
        width = text_encoder["d_model"]
        pairs.append(("the transformer's text_dim", transformer["text_dim"], "the text encoder's d_model", width))
    for one, value, other, expected in pairs:
        if value != expected:
            raise UserError(
                f"the parts in {folder} do not belong together: {one} is {value}, {other} {expected}; {HOW}"
            )
