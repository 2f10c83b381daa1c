"""Ways in which a model's folder is damaged, wrong or hostile; a few that do no harm are among them.

Each takes a copy of a pipeline's folder and a random generator, and changes the copy.
"""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Mutation = Callable[[Path, random.Random], None]
MUTATIONS: dict[str, Mutation] = {}
WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
JSON_FILES = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


def weights_of(folder: Path, part: str) -> Path:
    return folder / part / f"{WEIGHTS[part]}.safetensors"


def any_weights(folder: Path, rng: random.Random) -> Path:
    return weights_of(folder, rng.choice(sorted(WEIGHTS)))


def change_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(file)
    change(state)
    save_file({key: value.contiguous().clone() for key, value in state.items()}, file, metadata={"format": "pt"})


def change_one(folder: Path, rng: random.Random, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    file = any_weights(folder, rng)
    key = rng.choice(sorted(load_file(file)))
    change_tensors(file, lambda state: state.update({key: change(state[key])}))


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    return change


# Tensors


@mutation
def renamed_tensor(folder, rng):
    file = any_weights(folder, rng)
    key = rng.choice(sorted(load_file(file)))
    change_tensors(file, lambda state: state.update({key.replace("t", "T", 1) + "x": state.pop(key)}))


@mutation
def missing_tensor(folder, rng):
    file = any_weights(folder, rng)
    key = rng.choice(sorted(load_file(file)))
    change_tensors(file, lambda state: state.pop(key))


@mutation
def all_new_parts_missing(folder, _):
    def drop(state):
        for key in [key for key in state if key.startswith(("type_embedding.", "semantic_"))]:
            del state[key]

    change_tensors(weights_of(folder, "transformer"), drop)


@mutation
def unknown_tensor(folder, rng):
    name = rng.choice(["extra.weight", "blocks.0.extra", "x"])
    change_tensors(any_weights(folder, rng), lambda state: state.update({name: torch.zeros(3)}))


@mutation
def misshapen_tensor(folder, rng):
    change_one(folder, rng, lambda tensor: tensor.repeat(2, *[1] * (tensor.ndim - 1)))


@mutation
def flattened_tensor(folder, rng):
    change_one(folder, rng, lambda tensor: tensor[None])


@mutation
def one_not_a_number(folder, rng):
    change_one(folder, rng, with_value(float("nan")))


@mutation
def one_infinite(folder, rng):
    change_one(folder, rng, with_value(rng.choice([float("inf"), float("-inf")])))


@mutation
def all_not_a_number(folder, rng):
    file = any_weights(folder, rng)
    change_tensors(file, lambda state: [value.fill_(float("nan")) for value in state.values()])


@mutation
def whole_numbers(folder, rng):
    dtype = rng.choice([torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool])
    change_one(folder, rng, lambda tensor: tensor.to(dtype))


@mutation
def double_precision(folder, rng):
    """Does no harm."""
    change_one(folder, rng, torch.Tensor.double)


@mutation
def no_tensors(folder, rng):
    change_tensors(any_weights(folder, rng), dict.clear)


@mutation
def two_versions_of_one_weight(folder, rng):
    offset = rng.choice([0.0, 1.0])  # without an offset it does no harm

    def add(state):
        state["encoder.embed_tokens.weight"] = state["shared.weight"] + offset

    change_tensors(weights_of(folder, "text_encoder"), add)


@mutation
def parts_of_another_size(folder, rng):
    """The weights of another model of the same class."""
    file = any_weights(folder, rng)
    change_tensors(file, lambda state: state.update({key: value[..., :1] for key, value in state.items()}))


# Files of weights


@mutation
def cut_weights(folder, rng):
    file = any_weights(folder, rng)
    os.truncate(file, rng.randrange(file.stat().st_size))


@mutation
def empty_weights(folder, rng):
    any_weights(folder, rng).write_bytes(b"")


@mutation
def noise_for_weights(folder, rng):
    any_weights(folder, rng).write_bytes(rng.randbytes(10_000))


@mutation
def web_page_for_weights(folder, rng):
    any_weights(folder, rng).write_text("<html><body>404 not found</body></html>")


@mutation
def pointer_for_weights(folder, rng):
    any_weights(folder, rng).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@mutation
def bytes_after_the_end(folder, rng):
    with open(any_weights(folder, rng), "ab") as stream:
        stream.write(rng.randbytes(rng.randrange(1, 100)))


@mutation
def flipped_bits_in_the_header(folder, rng):
    file = any_weights(folder, rng)
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


@mutation
def huge_header(folder, rng):
    file = any_weights(folder, rng)
    length = rng.choice([2**63, 2**40, 10**8 + 1, file.stat().st_size])
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])


@mutation
def repeated_tensor_in_the_header(folder, rng):
    file = any_weights(folder, rng)
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].rstrip()
    key = next(key for key in json.loads(header) if key != "__metadata__")
    again = header[:-1] + f',"{key}":{json.dumps(json.loads(header)[key])}}}'.encode()
    file.write_bytes(struct.pack("<Q", len(again)) + again + data[8 + length :])


@mutation
def folder_for_weights(folder, rng):
    file = any_weights(folder, rng)
    file.unlink()
    file.mkdir()


@mutation
def link_to_nowhere_for_weights(folder, rng):
    file = any_weights(folder, rng)
    file.unlink()
    file.symlink_to(folder / "nowhere")


@mutation
def missing_weights(folder, rng):
    any_weights(folder, rng).unlink()


@mutation
def only_a_variant(folder, rng):
    file = any_weights(folder, rng)
    file.rename(file.with_suffix(".fp16.safetensors"))


@mutation
def tensors_in_pytorchs_format(folder, rng):
    """Does no harm."""
    part = rng.choice(sorted(WEIGHTS))
    file = weights_of(folder, part)
    torch.save(load_file(file), pickle_of(folder, part))
    file.unlink()


def pickle_of(folder: Path, part: str) -> Path:
    return folder / part / ("pytorch_model.bin" if part == "text_encoder" else f"{WEIGHTS[part]}.bin")


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@mutation
def code_in_a_pickle(folder, rng):
    part = rng.choice(sorted(WEIGHTS))
    state = {**load_file(weights_of(folder, part)), "more": Evil(folder / "code_ran")}
    torch.save(state, pickle_of(folder, part))
    weights_of(folder, part).unlink()


@mutation
def pickle_of_other_things(folder, rng):
    part = rng.choice(sorted(WEIGHTS))
    state = load_file(weights_of(folder, part))
    torch.save(rng.choice([[1, 2], {"state_dict": state}, "x", {1: torch.zeros(2)}, None]), pickle_of(folder, part))
    weights_of(folder, part).unlink()


@mutation
def cut_pickle(folder, rng):
    part = rng.choice(sorted(WEIGHTS))
    file = pickle_of(folder, part)
    torch.save(load_file(weights_of(folder, part)), file)
    weights_of(folder, part).unlink()
    os.truncate(file, rng.randrange(file.stat().st_size))


# Shards


def make_shards(folder: Path, part: str) -> Path:
    """Two shards and their index, which is returned."""
    file = weights_of(folder, part)
    state = load_file(file)
    keys = sorted(state)
    weight_map = {}
    for number in range(2):
        name = f"{WEIGHTS[part]}-0000{number + 1}-of-00002.safetensors"
        save_file({key: state[key] for key in keys[number::2]}, folder / part / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys[number::2], name)
    file.unlink()
    index = folder / part / f"{WEIGHTS[part]}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@mutation
def shards(folder, rng):
    """Does no harm."""
    make_shards(folder, rng.choice(sorted(WEIGHTS)))


@mutation
def broken_index(folder, rng):
    damage_json(make_shards(folder, rng.choice(sorted(WEIGHTS))), rng)


@mutation
def index_of_other_types(folder, rng):
    index = make_shards(folder, rng.choice(sorted(WEIGHTS)))
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map[rng.choice(sorted(weight_map))] = rng.choice([3, None, [], "", "../x", "/etc/passwd", "."])
    values = [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": None}, {"weight_map": weight_map}]
    index.write_text(json.dumps(rng.choice(values)))


@mutation
def index_that_disagrees(folder, rng):
    index = make_shards(folder, rng.choice(sorted(WEIGHTS)))
    weight_map = json.loads(index.read_text())["weight_map"]
    first, second = rng.sample(sorted(weight_map), 2)
    rng.choice([weight_map.pop, lambda key: weight_map.update({key + "x": weight_map.pop(key)})])(first)
    weight_map[second + "y"] = weight_map[second]
    index.write_text(json.dumps({"weight_map": weight_map}))


@mutation
def missing_shard(folder, rng):
    index = make_shards(folder, rng.choice(sorted(WEIGHTS)))
    rng.choice(sorted(index.parent.glob("*-of-00002.safetensors"))).unlink()


@mutation
def cut_shard(folder, rng):
    index = make_shards(folder, rng.choice(sorted(WEIGHTS)))
    file = rng.choice(sorted(index.parent.glob("*-of-00002.safetensors")))
    os.truncate(file, rng.randrange(file.stat().st_size))


@mutation
def tensor_in_two_shards(folder, rng):
    index = make_shards(folder, rng.choice(sorted(WEIGHTS)))
    one, other = sorted(index.parent.glob("*-of-00002.safetensors"))
    shared = next(iter(load_file(one)))
    change_tensors(other, lambda state: state.update({shared: load_file(one)[shared]}))


@mutation
def weights_beside_shards(folder, rng):
    part = rng.choice(sorted(WEIGHTS))
    file = weights_of(folder, part)
    state = load_file(file)
    make_shards(folder, part)
    save_file(state, file, metadata={"format": "pt"})


# JSON


def damage_json(file: Path, rng: random.Random) -> None:
    text = file.read_text()
    damages = [
        text[: rng.randrange(1, len(text) - 2)],
        "",
        "null",
        "[]",
        "[" + text + "]",
        "3",
        '"text"',
        "[" * 100_000,
        '{"a":' * 100_000,
        text.replace(":", ": NaN, ", 1),
        text[: text.rindex("}")] + ', "more": Infinity}',
        text[: text.rindex("}")] + f', "more": {"9" * 5000}}}',
        text[: text.rindex("}")] + ', "more": 1, "more": 2}',
        text.encode("utf-16"),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode().replace(b"{", b'{"\xff": 1, ', 1),
        b"\0" * 100,
    ]
    damage = rng.choice(damages)
    file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())


@mutation
def broken_json(folder, rng):
    damage_json(folder / rng.choice(JSON_FILES), rng)


@mutation
def missing_json(folder, rng):
    (folder / rng.choice(JSON_FILES[:6])).unlink()


@mutation
def folder_for_json(folder, rng):
    file = folder / rng.choice(JSON_FILES)
    file.unlink()
    file.mkdir()


@mutation
def link_to_nowhere_for_json(folder, rng):
    file = folder / rng.choice(JSON_FILES[:6])
    file.unlink()
    file.symlink_to(folder / "nowhere")


def change_entries(file: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


# The entries that decide a result, and values that none of them can have.
DECIDING = {
    "model_index.json": ("native_area", "native_num_frames", "default_num_inference_steps", "default_flow_shift",
                         "max_sequence_length"),
    "transformer/config.json": ("patch_size", "num_attention_heads", "attention_head_dim", "in_channels",
                                "out_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers", "eps",
                                "rope_max_seq_len", "semantic_dim", "semantic_hidden_dim", "semantic_rope", "roles",
                                "source", "semantic_prediction", "qk_norm", "cross_attn_norm"),
    "vae/config.json": ("base_dim", "z_dim", "dim_mult", "num_res_blocks", "latents_mean", "latents_std",
                        "temperal_downsample", "scale_factor_spatial", "scale_factor_temporal", "in_channels"),
    "text_encoder/config.json": ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads",
                                 "layer_norm_epsilon", "feed_forward_proj", "relative_attention_num_buckets"),
}  # fmt: skip
IMPOSSIBLE = (0, -1, -0.5, 10**12, 1e300, "x", "", [], {}, [0, 0, 0], [None], [[1]], "3")


@mutation
def entry_out_of_range(folder, rng):
    name = rng.choice(sorted(DECIDING))
    key = rng.choice(DECIDING[name])
    value = rng.choice(IMPOSSIBLE)
    if key == "qk_norm" and not value:
        value = "x"
    change_entries(folder / name, lambda values: values.update({key: value}))


@mutation
def entry_missing(folder, rng):
    name = rng.choice(sorted(DECIDING)[1:])
    key = rng.choice(DECIDING[name])
    change_entries(folder / name, lambda values: values.pop(key))


@mutation
def another_size(folder, rng):
    """A configuration that could be a model's, not that of these weights."""
    name, key, value = rng.choice(
        [
            ("transformer/config.json", "num_layers", 3),
            ("transformer/config.json", "num_layers", 1),
            ("transformer/config.json", "ffn_dim", 128),
            ("transformer/config.json", "attention_head_dim", 32),
            ("transformer/config.json", "qk_norm", None),
            ("transformer/config.json", "source", "channel"),
            ("transformer/config.json", "patch_size", [1, 1, 1]),
            ("vae/config.json", "base_dim", 8),
            ("vae/config.json", "num_res_blocks", 1),
            ("vae/config.json", "dim_mult", [1, 2, 2, 4]),
            ("text_encoder/config.json", "num_layers", 2),
            ("text_encoder/config.json", "vocab_size", 400),
            ("text_encoder/config.json", "tie_word_embeddings", False),
            ("text_encoder/config.json", "feed_forward_proj", "relu"),
        ]
    )
    change_entries(folder / name, lambda values: values.update({key: value}))


@mutation
def another_class(folder, rng):
    name, value = rng.choice(
        [
            ("transformer", ["os", "system"]),
            ("transformer", ["subprocess", "Popen"]),
            ("transformer", ["diffusers", "WanTransformer3DModel"]),
            ("transformer", ["sama_video.models.transformer_sama", "SemanticHead"]),
            ("vae", ["diffusers", "AutoencoderKL"]),
            ("vae", ["sama_video.models.autoencoder_sama_nano", "AutoencoderSamaNano"]),
            ("vae", []),
            ("vae", [None, None]),
            ("vae", None),
            ("vae", ["diffusers"]),
            ("vae", [["diffusers"], "AutoencoderKLWan"]),
            ("vae", {"diffusers": "AutoencoderKLWan"}),
            ("text_encoder", ["transformers", "T5EncoderModel"]),
            ("text_encoder", ["transformers", "no_such"]),
            ("tokenizer", ["transformers", "NoSuchTokenizer"]),
            ("tokenizer", ["builtins", "eval"]),
            ("tokenizer", ["transformers", "T5Tokenizer"]),
            ("scheduler", ["diffusers", "NoSuchScheduler"]),
            ("scheduler", ["diffusers", "WanPipeline"]),
            ("scheduler", ["mutated_module", "Scheduler"]),
            ("_class_name", "WanPipeline"),
            ("_class_name", None),
            ("_class_name", ["mutated_module", "Pipeline"]),
        ]
    )
    (folder / "mutated_module.py").write_text(f"open({str(folder / 'code_ran')!r}, 'w')")
    shutil.copy(folder / "mutated_module.py", folder / "scheduler" / "mutated_module.py")
    change_entries(folder / "model_index.json", lambda values: values.update({name: value}))


@mutation
def another_class_in_a_part(folder, rng):
    part = rng.choice(["transformer", "vae", "scheduler"])
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    value = rng.choice(["UNet2DConditionModel", None, 3, "WanTransformer3DModel", ["x", "y"]])
    change_entries(file, lambda values: values.update({"_class_name": value}))


@mutation
def entry_that_runs_something_else(folder, rng):
    name, value = rng.choice(
        [
            ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
            ("quantization_config", {"quant_method": "gptq", "bits": 4}),
            ("transformers_weights", "../transformer/diffusion_pytorch_model.safetensors"),
            ("_attn_implementation", "kernels-community/flash-attn"),
            ("attn_implementation", "someone/code"),
        ]
    )
    part = "text_encoder" if "quant" not in name else rng.choice(["text_encoder", "transformer", "vae"])
    change_entries(folder / part / "config.json", lambda values: values.update({name: value}))


@mutation
def adapter_beside_the_weights(folder, _):
    text = json.dumps({"base_model_name_or_path": "someone/model", "peft_type": "LORA"})
    (folder / "text_encoder" / "adapter_config.json").write_text(text)


@mutation
def missing_part(folder, rng):
    shutil.rmtree(folder / rng.choice(["transformer", "vae", "text_encoder", "tokenizer", "scheduler"]))


@mutation
def file_for_a_part(folder, rng):
    part = folder / rng.choice(["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
    shutil.rmtree(part)
    part.write_text("x")


@mutation
def tokenizer_of_more_words(folder, _):
    change_entries(folder / "text_encoder" / "config.json", lambda values: values.update(vocab_size=299))
    change_tensors(weights_of(folder, "text_encoder"), lambda s: s.update({"shared.weight": s["shared.weight"][:299]}))


@mutation
def other_tokenizer_json(folder, rng):
    key = rng.choice(["model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor"])
    value = rng.choice([3, "x", {"type": "NoSuch"}, [1]])
    change_entries(folder / "tokenizer" / "tokenizer.json", lambda values: values.update({key: value}))


@mutation
def code_named_by_a_tokenizer(folder, _):
    """Does no harm: what a tokenizer's settings name is not run."""
    (folder / "tokenizer" / "evil.py").write_text(f"open({str(folder / 'code_ran')!r}, 'w')")
    entry = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    change_entries(folder / "tokenizer" / "tokenizer_config.json", lambda values: values.update(entry))


@mutation
def scheduler_of_another_flow(folder, rng):
    name, value = rng.choice([("num_train_timesteps", 0), ("num_train_timesteps", "x"), ("shift", 0), ("shift", None)])
    change_entries(folder / "scheduler" / "scheduler_config.json", lambda values: values.update({name: value}))


@mutation
def more_files(folder, _):
    """Does no harm."""
    (folder / "README.md").write_text("a model")
    (folder / "transformer" / "notes.txt").write_text("x")
