"""LoRA files of other trainers, under one set of names.

Afterwards a state holds, for modules and parameters by diffusers' names:

    transformer.<module>.lora_A.weight, .lora_B.weight     weight + B @ A
    transformer.<module>.diff, .diff_b                     weight + diff, bias + diff_b
    transformer.<parameter>                                the whole of a small part of SAMA's

Read are the names of DiffSynth, ComfyUI, AI-Toolkit, peft, diffusers, musubi-tuner and kohya (`lora_unet_...`),
VideoX-Fun (`lora_unet__...`), OneTrainer, lightx2v and CausVid (`diff`, `diff_b`, `diff_m` beside low-rank changes).
alpha / rank is multiplied into B. diffusers' own converters know fewer of these, and leave changes of norms out
without a word; where both read a file, a test holds that they agree.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from ..system.errors import UserError
from .checkpoint_files import StateDict
from .foreign_weights import foreign_kind
from .official_names import FULL_KEYS, TRANSFORMER_KEYS, renamer
from .strict_loading import is_finite
from .weight_files import listed

WHAT = "a LoRA of a Wan or SAMA transformer"
PREFIX = "transformer."

# What a name ends in, and what it then stands for. A name may carry the adapter's own name (`lora_A.default.weight`).
ENDINGS = (
    (r"\.lora[._](?:B|up)(?:\.(?P<adapter>[^.]+?))??\.bias", "bias"),
    (r"\.lora[._](?:A|down)(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?", "lora_A"),
    (r"\.lora[._](?:B|up)(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?", "lora_B"),
    (r"\.alpha", "alpha"),
    (r"\.(?:diff|w_norm)", "diff"),
    (r"\.(?:diff_b|b_norm)", "diff_b"),
    (r"\.diff_m", "diff_m"),
)
# Before the module's name: any of these, also several.
PREFIXES = ("model.", "diffusion_model.", "pipe.", "dit.", "base_model.", "transformer.", "module.", "unet.")
# Names in which every dot is an underscore begin with one of these.
UNDERSCORED = ("lora_unet__", "lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_")


def is_lora(names: list[str]) -> bool:
    """Whether weights of these names are a change of a model, of any kind, and not a model."""
    kinds = r"[._]lora[._]|^lora_|\.(lokr|hada|ia3|oft|boft|glora)_"
    signs = rf"{kinds}|\.(dora_scale|diff|diff_b|diff_m|w_norm|set_weight)$"
    return any(re.search(signs, name) for name in names)


def convert_lora_state(state: StateDict, config: Mapping[str, Any] | None = None) -> StateDict:
    """A LoRA's state under one set of names, with its scale in it (see the module).

    Args:
        config: peft's configuration, from a file's header or beside it: `r`, `lora_alpha`, `alpha_pattern`,
            `use_rslora`; the file's own alphas come first.

    Raises:
        UserError: naming another kind of file, or listing names of modules that the transformer does not have, pairs
            without their other half, ranks that do not fit, and values that are no numbers.
    """
    config = config or {}
    _refuse_foreign(state, config)
    changes, whole, unknown = _sorted_out(state)
    modules = {module for module, leaf in changes if leaf in ("lora_A", "lora_B", "bias", "alpha")}
    missing = [f"{m}.{leaf}" for m in modules for leaf in ("lora_A", "lora_B") if (m, leaf) not in changes]
    if unknown or missing or not (changes or whole):
        raise UserError(
            f"this is not {WHAT}; nothing was converted. unknown: {listed(unknown) or 'none'}; "
            f"missing: {listed(missing) or 'none'}"
        )
    converted = {PREFIX + name: value for name, value in whole.items()}
    for module in sorted(modules):
        converted |= _scaled(module, changes, config)
    for (module, leaf), value in changes.items():
        if leaf in ("diff", "diff_b"):
            key = f"{PREFIX}{module}.{leaf}"
            converted[key] = converted[key].float() + value.float() if key in converted else value
    _check_numbers(converted)
    return converted


def _refuse_foreign(state: StateDict, config: Mapping[str, Any]) -> None:
    if foreign := foreign_kind(state, "loras"):
        raise UserError(f"this is {foreign}")
    if config.get("use_dora"):
        raise UserError(
            "this is a DoRA file: beside low-rank changes it rescales weights (use_dora in its configuration); train "
            "or export it as a plain LoRA"
        )
    if state and not is_lora(list(state)) and any("patch_embedding" in key for key in state):
        raise UserError("this is a whole model and not a LoRA; convert it, and pass the folder as `model`")


Changes = dict[tuple[str, str], torch.Tensor]


def _sorted_out(state: StateDict) -> tuple[Changes, StateDict, list[str]]:
    """Changes by (module, what it is), whole parts by name, and the names that are neither."""
    changes: Changes = {}
    whole: StateDict = {}
    unknown, adapters = [], set()
    for key, value in state.items():
        stem, leaf, adapter = _parsed(key)
        adapters |= {adapter} if leaf.startswith("lora_") else set()
        name = _own_name(stem if leaf != "diff_m" else f"{stem}.modulation", is_module=leaf != "whole")
        leaf = "diff" if leaf == "diff_m" else leaf
        if name is None or (leaf == "whole" and not name.startswith(FULL_KEYS)):
            unknown.append(key)
        elif (name, leaf) in changes or (leaf == "whole" and name in whole):
            raise UserError(f"this file says twice what {name} is ({key}), under two names; give one of the two")
        elif leaf == "whole":
            whole[name] = value
        else:
            changes[name, leaf] = value
    if len(adapters) > 1 and not unknown:
        raise UserError(f"this file holds several adapters ({listed(map(str, adapters))}); save one of them alone")
    return changes, whole, unknown


def _parsed(key: str) -> tuple[str, str, str | None]:
    """`(stem, leaf, adapter's name)`; what ends in no known way is perhaps a whole weight."""
    for ending, leaf in ENDINGS:
        if match := re.search(ending + "$", key):
            return key[: match.start()], leaf, match.groupdict().get("adapter")
    return key, "whole", None


_OFFICIAL = renamer(TRANSFORMER_KEYS)
_OWN = set(TRANSFORMER_KEYS.values())
_BY_UNDERSCORES = {
    name.replace(".", "_"): own for official, own in TRANSFORMER_KEYS.items() for name in (official, own)
}


def _own_name(name: str, is_module: bool) -> str | None:
    """diffusers' name of a module, or of a whole weight."""
    for prefix in UNDERSCORED:
        if name.startswith(prefix):
            return _without_underscores(name.removeprefix(prefix)) if is_module else None
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    module = name if is_module else name.rpartition(".")[0]
    if re.sub(r"^blocks\.\d+\.", "blocks.{i}.", module) in _OWN or name.startswith(FULL_KEYS):
        return name
    return _OFFICIAL(name)


def _without_underscores(name: str) -> str | None:
    number = re.match(r"blocks_(\d+)_", name)
    own = _BY_UNDERSCORES.get(re.sub(r"^blocks_\d+_", "blocks_{i}_", name))
    return own.replace("{i}", number[1]) if own and number else own


def _scaled(module: str, changes: Changes, config: Mapping[str, Any]) -> StateDict:
    """B @ A * alpha / rank = (B * alpha / rank) @ A."""
    down, up = changes[module, "lora_A"], changes[module, "lora_B"]
    if down.ndim < 2 or up.ndim < 2 or down.shape[0] != up.shape[1] or not len(down):
        raise UserError(
            f"the two matrices of {module} do not fit each other: {tuple(down.shape)} and {tuple(up.shape)}; get the "
            "LoRA again"
        )
    factor = _alpha(module, changes, config, rank=len(down)) / _divisor(len(down), config)
    key = f"{PREFIX}{module}"
    scaled = {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": _times(up, factor)}
    if (module, "bias") in changes:
        scaled[f"{key}.diff_b"] = _times(changes[module, "bias"], factor)
    return scaled


def _divisor(rank: int, config: Mapping[str, Any]) -> float:
    return math.sqrt(rank) if config.get("use_rslora") else rank


def _alpha(module: str, changes: Changes, config: Mapping[str, Any], rank: int) -> float:
    given = changes.get((module, "alpha"))
    if given is None:
        given = config.get("lora_alpha", rank)
        for name, alpha in (config.get("alpha_pattern") or {}).items():
            # peft takes these for regular expressions; what trainers write is a module's name or its end.
            own = _own_name(name.removeprefix("^").replace("\\.", "."), is_module=True) or name
            given = alpha if f".{module}".endswith(f".{own}") else given
    elif given.numel() != 1:
        raise UserError(f"the alpha of {module} is not one number; get the LoRA again")
    try:
        alpha = float(given)
    except (TypeError, ValueError) as error:
        raise UserError(f"the alpha of {module} is not a number: {given!r}; get the LoRA again") from error
    if not math.isfinite(alpha):
        raise UserError(f"the alpha of {module} is {alpha}; get the LoRA again")
    return alpha


def _times(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """In the tensor's type if that holds the product exactly, else in float32."""
    product = tensor.float() * factor
    narrow = product.to(tensor.dtype)
    return narrow if torch.equal(narrow.float(), product) else product


def _check_numbers(state: StateDict) -> None:
    if odd := [f"{key} ({value.dtype})" for key, value in state.items() if not value.is_floating_point()]:
        raise UserError(f"this is not {WHAT}; nothing was converted. not floating point: {listed(odd)}")
    if odd := [key for key, value in state.items() if not is_finite(value)]:
        raise UserError(f"this LoRA holds values that are no numbers, in {listed(odd)}; get it again")
