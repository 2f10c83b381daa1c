"""Weights between the official names and diffusers', both directions, strict.

Readable: a released SAMA checkpoint and original Wan 2.1 / 2.2 transformers (DiffSynth names; one safetensors file,
a folder of shards, or a PyTorch file), `Wan2.1_VAE.pth`, `models_t5_umt5-xxl-enc-bf16.pth`, and LoRA files of
DiffSynth's names. Sizes are inferred from shapes. Unknown, missing or misshapen keys are listed by name. Nothing is
unpickled but tensors (`weights_only=True`).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import UMT5Config, UMT5EncoderModel

from ..errors import UserError
from .transformer_sama import SamaTransformer3DModel

StateDict = dict[str, torch.Tensor]

# One table per component, (official pattern, diffusers pattern), each an exact rename of whole dotted parts.
# `{i}` stands for a number. Both directions read the same table.
TRANSFORMER_KEYS = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("blocks.{i}.modulation", "blocks.{i}.scale_shift_table"),
    ("blocks.{i}.self_attn.q", "blocks.{i}.attn1.to_q"),
    ("blocks.{i}.self_attn.k", "blocks.{i}.attn1.to_k"),
    ("blocks.{i}.self_attn.v", "blocks.{i}.attn1.to_v"),
    ("blocks.{i}.self_attn.o", "blocks.{i}.attn1.to_out.0"),
    ("blocks.{i}.self_attn.norm_q", "blocks.{i}.attn1.norm_q"),
    ("blocks.{i}.self_attn.norm_k", "blocks.{i}.attn1.norm_k"),
    ("blocks.{i}.cross_attn.q", "blocks.{i}.attn2.to_q"),
    ("blocks.{i}.cross_attn.k", "blocks.{i}.attn2.to_k"),
    ("blocks.{i}.cross_attn.v", "blocks.{i}.attn2.to_v"),
    ("blocks.{i}.cross_attn.o", "blocks.{i}.attn2.to_out.0"),
    ("blocks.{i}.cross_attn.norm_q", "blocks.{i}.attn2.norm_q"),
    ("blocks.{i}.cross_attn.norm_k", "blocks.{i}.attn2.norm_k"),
    ("blocks.{i}.norm3", "blocks.{i}.norm2"),
    ("blocks.{i}.ffn.0", "blocks.{i}.ffn.net.0.proj"),
    ("blocks.{i}.ffn.2", "blocks.{i}.ffn.net.2"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    ("segment_embedding", "type_embedding"),
    ("siglip_feat_mlp.norm", "semantic_projector.norm"),
    ("siglip_feat_mlp.fc1", "semantic_projector.fc1"),
    ("siglip_feat_mlp.fc2", "semantic_projector.fc2"),
    ("semantic_head.norm", "semantic_head.norm"),
    ("semantic_head.proj", "semantic_head.proj"),
)
TEXT_ENCODER_KEYS = (
    ("token_embedding", "shared"),
    ("norm", "encoder.final_layer_norm"),
    ("blocks.{i}.norm1", "encoder.block.{i}.layer.0.layer_norm"),
    ("blocks.{i}.attn.q", "encoder.block.{i}.layer.0.SelfAttention.q"),
    ("blocks.{i}.attn.k", "encoder.block.{i}.layer.0.SelfAttention.k"),
    ("blocks.{i}.attn.v", "encoder.block.{i}.layer.0.SelfAttention.v"),
    ("blocks.{i}.attn.o", "encoder.block.{i}.layer.0.SelfAttention.o"),
    ("blocks.{i}.pos_embedding.embedding", "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias"),
    ("blocks.{i}.norm2", "encoder.block.{i}.layer.1.layer_norm"),
    ("blocks.{i}.ffn.gate.0", "encoder.block.{i}.layer.1.DenseReluDense.wi_0"),
    ("blocks.{i}.ffn.fc1", "encoder.block.{i}.layer.1.DenseReluDense.wi_1"),
    ("blocks.{i}.ffn.fc2", "encoder.block.{i}.layer.1.DenseReluDense.wo"),
)
# Plain Wan files lack these; a transformer loaded from one starts as Wan, with the new parts newly initialised.
SAMA_KEYS = ("type_embedding.", "semantic_projector.", "semantic_head.")
# What a LoRA file may hold whole, beside low-rank changes.
FULL_KEYS = (*SAMA_KEYS, "source_embedding.")


def _renamer(table: tuple[tuple[str, str], ...], reverse: bool = False) -> Callable[[str], str | None]:
    rules = {}
    for official, diffusers in table:
        old, new = (diffusers, official) if reverse else (official, diffusers)
        rules[old] = new

    def rename(key: str) -> str | None:
        block = re.match(r"((?:.*\.)?blocks?\.)(\d+)(\..*)", key)
        pattern = f"{block[1]}{{i}}{block[3]}" if block else key
        stem, _, leaf = pattern.rpartition(".")
        renamed = rules.get(pattern) or (f"{rules[stem]}.{leaf}" if stem in rules else None)
        return renamed.replace("{i}", block[2]) if renamed and block else renamed

    return rename


def read_state_dict(path: str | Path) -> StateDict:
    """Tensors of one safetensors or PyTorch file, or of all shards in a folder.

    Raises:
        UserError: if there is nothing to read, a file is damaged, or two shards hold the same key.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted([*path.glob("*.pth"), *path.glob("*.bin")])
        index = next(iter(path.glob("*.index.json")), None)
        if index is not None:
            _check_shards_present(index, files)
    else:
        files = [path]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"no weights at {path}: give a .safetensors or .pth file, or a folder of shards")
    state: StateDict = {}
    for file in files:
        tensors = _read_file(file)
        if both := sorted(state.keys() & tensors.keys()):
            raise UserError(f"{file.name} repeats keys of another shard: {_listed(both)}")
        state.update(tensors)
    return state


def _check_shards_present(index: Path, files: list[Path]) -> None:
    expected = set(json.loads(index.read_text())["weight_map"].values())
    if missing := sorted(expected - {file.name for file in files}):
        raise UserError(f"the download in {index.parent} is incomplete, {_listed(missing)} is missing: fetch it again")


def _read_file(file: Path) -> StateDict:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"{file} is damaged or not a weights file: download it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{file} does not hold a plain state dict of tensors")
    return dict(state)


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _load_strictly(model: torch.nn.Module, state: StateDict, what: str, may_miss: tuple[str, ...] = ()) -> None:
    """Put `state` into a model on the meta device, or raise with every key that does not fit."""
    expected = model.state_dict()
    unknown = sorted(state.keys() - expected.keys())
    missing = sorted(key for key in expected.keys() - state.keys() if not key.startswith(may_miss or ("\0",)))
    misshapen = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in state.keys() & expected.keys()
        if state[key].shape != expected[key].shape
    )
    problems = [
        f"{label}: {_listed(names)}"
        for label, names in (("unknown", unknown), ("missing", missing), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise UserError(f"this is not {what}; nothing was converted. " + "; ".join(problems))
    model.load_state_dict(state, strict=not may_miss, assign=True)


def _rename_all(state: StateDict, rename: Callable[[str], str | None], what: str) -> StateDict:
    renamed = {key: rename(key) for key in state}
    if unknown := sorted(key for key, name in renamed.items() if name is None):
        raise UserError(f"this is not {what}; nothing was converted. unknown: {_listed(unknown)}")
    return {str(renamed[key]): value for key, value in state.items()}


def _need(state: StateDict, what: str, *keys: str) -> None:
    if missing := [key for key in keys if key not in state]:
        raise UserError(f"this is not {what}; nothing was converted. missing: {_listed(missing)}")


def infer_transformer_config(state: StateDict, num_attention_heads: int | None = None) -> dict:
    """Constructor arguments of the transformer whose official state dict this is (head width 128 unless told).

    Raises:
        UserError: if a key that tells a size is missing, or the heads do not divide the width.
    """
    what = "a SAMA or Wan text-to-video transformer"
    _need(state, what, "patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight")
    _need(state, what, "blocks.0.ffn.0.weight", "head.head.weight")
    width, channels, *patch = state["patch_embedding.weight"].shape
    heads = num_attention_heads or width // 128
    if heads == 0 or width % heads or (width // heads) % 2:
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
        "num_layers": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
    }
    if "siglip_feat_mlp.fc1.weight" in state:
        config["semantic_hidden_dim"], config["semantic_dim"] = state["siglip_feat_mlp.fc1.weight"].shape
    return config


# What the shapes of weights do not say; a file of ours has it in its header.
HEADER_KEY = "sama_config"
HEADER_CONFIG = ("num_attention_heads", "semantic_rope", "semantic_prediction")


def official_transformer_header(model: SamaTransformer3DModel) -> dict[str, str]:
    """For the file of [`official_transformer_state`]; the official release does not read it."""
    config = {name: model.config[name] for name in HEADER_CONFIG}
    return {"format": "pt", HEADER_KEY: json.dumps(config)}


def _read_transformer_header(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file() or path.suffix != ".safetensors":
        return {}
    return read_header(path, HEADER_KEY)


def read_header(path: Path, key: str) -> dict[str, Any]:
    """What a safetensors file's header holds as JSON under `key`; empty without it."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get(key, "{}"))


def load_official_transformer(path: str | Path, num_attention_heads: int | None = None) -> SamaTransformer3DModel:
    """A released SAMA checkpoint, or an original Wan text-to-video one (then SAMA's parts start anew).

    Args:
        path: safetensors or PyTorch file, or a folder of shards, with DiffSynth's key names.
        num_attention_heads: of a file whose header does not say it; width / 128 when None.

    Raises:
        UserError: listing every key that is unknown, missing or misshapen.
    """
    what = "a SAMA or Wan text-to-video transformer"
    state, header = read_state_dict(path), _read_transformer_header(path)
    config = infer_transformer_config(state, header.get("num_attention_heads") or num_attention_heads) | header
    state = _rename_all(state, _renamer(TRANSFORMER_KEYS), what)
    with init_empty_weights():
        model = SamaTransformer3DModel(**config)
    plain_wan = not any(key.startswith(SAMA_KEYS) for key in state)
    _load_strictly(model, state, what, may_miss=SAMA_KEYS if plain_wan else ())
    # The rotary tables are buffers that no checkpoint holds.
    model.rope = WanRotaryPosEmbed(
        model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len
    )
    if plain_wan:
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
    return _rename_all(model.state_dict(), _renamer(TRANSFORMER_KEYS, reverse=True), "a SAMA transformer")


def _vae_keys(wan22: bool) -> tuple[tuple[str, str], ...]:
    """(official, diffusers) stems of Wan's VAE. Wan2.2 nests its levels, Wan2.1 counts its layers through."""
    residual = (
        ("residual.0", "norm1"),
        ("residual.2", "conv1"),
        ("residual.3", "norm2"),
        ("residual.6", "conv2"),
        ("shortcut", "conv_shortcut"),
    )
    resample = (("resample.1", "resample.1"), ("time_conv", "time_conv"))
    keys = [("conv1", "quant_conv"), ("conv2", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        keys += [(f"{side}.conv1", f"{side}.conv_in"), (f"{side}.head.0", f"{side}.norm_out")]
        keys += [(f"{side}.head.2", f"{side}.conv_out")]
        keys += [(f"{side}.middle.0.{a}", f"{side}.mid_block.resnets.0.{b}") for a, b in residual]
        keys += [(f"{side}.middle.2.{a}", f"{side}.mid_block.resnets.1.{b}") for a, b in residual]
        keys += [(f"{side}.middle.1.{a}", f"{side}.mid_block.attentions.0.{a}") for a in ("norm", "to_qkv", "proj")]
    for level in range(4):
        for layer in range(4):
            down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
            if wan22:
                old_down = f"encoder.downsamples.{level}.downsamples.{layer}"
                old_up = f"decoder.upsamples.{level}.upsamples.{layer}"
                keys += [(f"{old_down}.{a}", f"{down}.resnets.{layer}.{b}") for a, b in residual]
                if layer == 2:  # after two residual blocks
                    keys += [(f"{old_down}.{a}", f"{down}.downsampler.{b}") for a, b in resample]
                if layer == 3:  # after three
                    keys += [(f"{old_up}.{a}", f"{up}.upsampler.{b}") for a, b in resample]
            else:
                flat = 4 * level + layer
                old_down, old_up = f"encoder.downsamples.{flat}", f"decoder.upsamples.{flat}"
                keys += [(f"{old_down}.{a}", f"encoder.down_blocks.{flat}.{b}") for a, b in residual + resample]
                keys += [(f"{old_up}.{a}", f"{up}.upsamplers.0.{b}") for a, b in resample]
            keys += [(f"{old_up}.{a}", f"{up}.resnets.{layer}.{b}") for a, b in residual]
    return tuple(keys)


# Of Wan2.2's VAE, from its release; Wan2.1's are diffusers' defaults.
_WAN22_LATENTS_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_WAN22_LATENTS_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


def _is_wan22_vae(state: StateDict) -> bool:
    return any(key.startswith("encoder.downsamples.0.downsamples.") for key in state)


def load_official_vae(path: str | Path) -> AutoencoderKLWan:
    """`Wan2.1_VAE.pth` or `Wan2.2_VAE.pth` (or the same keys in safetensors) as diffusers' class.

    Raises:
        UserError: listing every key that is unknown, missing or misshapen.
    """
    what = "a Wan VAE"
    state = {key.removeprefix("model."): value for key, value in read_state_dict(path).items()}
    _need(state, what, "conv1.weight", "conv2.weight", "encoder.conv1.weight", "decoder.head.2.weight")
    config: dict[str, Any] = {
        "base_dim": state["encoder.conv1.weight"].shape[0],
        "z_dim": state["conv2.weight"].shape[0],
    }
    wan22 = _is_wan22_vae(state)
    if wan22:
        config |= {
            "decoder_base_dim": state["decoder.head.2.weight"].shape[1],
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "is_residual": True,
            "scale_factor_spatial": 16,
        }
        if config["z_dim"] == len(_WAN22_LATENTS_MEAN):
            config |= {"latents_mean": list(_WAN22_LATENTS_MEAN), "latents_std": list(_WAN22_LATENTS_STD)}
    state = _rename_all(state, _renamer(_vae_keys(wan22)), what)
    with init_empty_weights():
        vae = AutoencoderKLWan(**config)
    _load_strictly(vae, state, what)
    return vae.eval()


def official_vae_state(vae: AutoencoderKLWan) -> StateDict:
    """The VAE's state dict under Wan's names, the inverse of [`load_official_vae`]."""
    keys = _vae_keys(wan22=bool(vae.config.is_residual))
    return _rename_all(vae.state_dict(), _renamer(keys, reverse=True), "a Wan VAE")


def load_official_text_encoder(path: str | Path) -> UMT5EncoderModel:
    """`models_t5_umt5-xxl-enc-bf16.pth` (or the same keys in safetensors) as transformers' class.

    Raises:
        UserError: listing every key that is unknown, missing or misshapen.
    """
    what = "a UMT5 encoder of Wan's release"
    state = read_state_dict(path)
    _need(state, what, "token_embedding.weight", "blocks.0.ffn.fc1.weight", "blocks.0.attn.q.weight")
    _need(state, what, "blocks.0.pos_embedding.embedding.weight")
    buckets, heads = state["blocks.0.pos_embedding.embedding.weight"].shape
    vocab_size, width = state["token_embedding.weight"].shape
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=width,
        d_kv=state["blocks.0.attn.q.weight"].shape[0] // heads,
        d_ff=state["blocks.0.ffn.fc1.weight"].shape[0],
        num_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    state = _rename_all(state, _renamer(TEXT_ENCODER_KEYS), what)
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    with init_empty_weights():
        text_encoder = UMT5EncoderModel(config)
    _load_strictly(text_encoder, state, what)
    text_encoder.tie_weights()
    return text_encoder.eval()


def official_text_encoder_state(text_encoder: UMT5EncoderModel) -> StateDict:
    """The encoder's state dict under Wan's names, the inverse of [`load_official_text_encoder`]."""
    state = {key: value for key, value in text_encoder.state_dict().items() if key != "encoder.embed_tokens.weight"}
    return _rename_all(state, _renamer(TEXT_ENCODER_KEYS, reverse=True), "a UMT5 encoder")


def convert_lora_state(state: StateDict) -> StateDict:
    """A LoRA's state dict under diffusers' names (`transformer.<module>.lora_A.weight`).

    Accepted: DiffSynth (`blocks.0.self_attn.q.lora_A.default.weight`), ComfyUI (prefix `diffusion_model.`), `lora_down`
    and `lora_up` for A and B with `alpha` (folded into B), and diffusers' own names. SAMA's small parts may lie beside
    them, whole.

    Raises:
        UserError: listing keys of modules that the transformer does not have.
    """
    what = "a LoRA of a Wan or SAMA transformer"
    rename = _renamer(TRANSFORMER_KEYS)
    names = {new for _, new in TRANSFORMER_KEYS}
    converted, whole, alphas, unknown = {}, {}, {}, []
    for key, value in state.items():
        plain = re.sub(r"^(diffusion_model|pipe\.dit|transformer|base_model\.model)\.", "", key)
        module, _, leaf = plain.partition(".lora_")
        if not leaf and plain.startswith(FULL_KEYS):
            whole[f"transformer.{plain}"] = value
            continue
        if not leaf and module.endswith(".alpha"):
            module, leaf = module.removesuffix(".alpha"), "alpha"
        is_diffusers = re.sub(r"\.\d+\.", ".{i}.", module, count=1) in names
        module = module if is_diffusers else rename(module)
        leaf = {"A": "lora_A", "down": "lora_A", "B": "lora_B", "up": "lora_B"}.get(leaf.split(".")[0], leaf)
        if module is None or leaf not in ("lora_A", "lora_B", "alpha"):
            unknown.append(key)
        elif leaf == "alpha":
            alphas[module] = float(value)
        else:
            converted[f"transformer.{module}.{leaf}.weight"] = value
    modules = {key.rsplit(".lora_", 1)[0] for key in converted}
    missing = [f"{m}.{x}" for m in modules for x in ("lora_A", "lora_B") if f"{m}.{x}.weight" not in converted]
    if unknown or missing or not converted:
        raise UserError(
            f"this is not {what}; nothing was converted. unknown: {_listed(sorted(unknown)) or 'none'}; "
            f"missing: {_listed(sorted(missing)) or 'none'}"
        )
    for module, alpha in alphas.items():
        up = f"transformer.{module}.lora_B.weight"
        converted[up] = converted[up] * (alpha / converted[up].shape[1])
    return converted | whole
