"""How much memory an edit takes at its peak, from sizes alone. Imports no torch.

Counted is what grows with the model and the clip, not the process itself and its libraries. An edit has four phases,
each with a part at work: text encoder, VAE (encoding), transformer, VAE (decoding). What of the weights is where the
work is done depends on `offload`; what a phase computes comes on top.

d width, f width of the feed-forward, N tokens of `[source | semantic | target]`, H W pixels of a frame, F frames.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .shapes import PATCH, RELEASE_TILE, SEMANTIC_GRID, LatentShape, VideoShape, semantic_tokens

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_OFFLOADS = ("none", "model", "group", "disk")
_PART_OF = {"text": "text_encoder", "encode": "vae", "denoise": "transformer", "decode": "vae"}
# Where nobody says otherwise: the parts that Wan's models come with.
WAN_VAES = {
    8: {"base_dim": 96, "parameters": 126_892_531},
    16: {"base_dim": 160, "decoder_base_dim": 256, "patch_size": 2, "parameters": 704_688_668},
}
UMT5_XXL = {"vocab_size": 256_384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 24}
# Feature maps of the full size and the first level's width that Wan's VAE holds at its peak, a frame each, tiles' sums
# included (benchmarks/bench_memory.py); and how often a clip's numbers are held by the nano's as it decodes, measured
# with 17 frames of 256x256 and of 512x512.
_WAN_ENCODE_MAPS, _WAN_DECODE_MAPS, _WAN_TILE_MAPS = 47.0, 62.0, 72.0
_NANO_COPIES = 15.0
# Fraction of the device's memory that one forward pass of both guidance branches may take.
_BATCHED_GUIDANCE_FRACTION = 0.25


@dataclass(frozen=True, kw_only=True)
class WeightSizes:
    """One part's.

    Args:
        num_bytes: all of them.
        block_bytes: of what is read from disk at a time.
        leaf_bytes: of the largest single layer.
    """

    num_bytes: float
    block_bytes: float
    leaf_bytes: float


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Bytes at the peak: on the device that computes, and in main memory if that is another."""

    device: float
    host: float


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What an edit of one window needs.

    Args:
        weights: of "text_encoder", "vae" and "transformer".
        work: what each phase computes and holds, in the order of the phases.
        always: frames and latents that are there in all phases.
    """

    weights: Mapping[str, WeightSizes]
    work: Mapping[str, float]
    always: float

    def peaks(self, *, on_host: bool) -> dict[str, Peak]:
        """For each way to offload, with least waiting first.

        Args:
            on_host: the device that computes is the CPU, where only "none" and "disk" mean anything.
        """
        everything = sum(part.num_bytes for part in self.weights.values())
        device = {
            "none": everything + max(self.work.values()),
            "model": self._largest(lambda part: part.num_bytes),
            "group": self._largest(lambda part: 2 * part.leaf_bytes),
            "disk": self.weights["vae"].num_bytes + self._largest(lambda part: 2 * part.block_bytes, but="vae"),
        }
        host = {"none": 0.0, "model": everything, "group": everything, "disk": 0.0}
        names = ("none", "disk") if on_host else _OFFLOADS
        return {name: Peak(device=device[name] + self.always, host=host[name]) for name in names}

    def _largest(self, held: Callable[[WeightSizes], float], but: str = "") -> float:
        return max(
            work + (0 if _PART_OF[phase] == but else held(self.weights[_PART_OF[phase]]))
            for phase, work in self.work.items()
        )


@dataclass(frozen=True, kw_only=True)
class PartSizes:
    """The configurations of a pipeline's parts and how many parameters each has.

    Args:
        text_encoder: None for a pipeline without one.
        parameters: of "transformer", "vae" and "text_encoder".
    """

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any] | None
    parameters: Mapping[str, int]

    @classmethod
    def of_wan(cls, transformer: Mapping[str, Any], num_parameters: int, spatial_factor: int) -> "PartSizes":
        """With the VAE and the text encoder that Wan's models of this factor come with."""
        vae = {"_class_name": "AutoencoderKLWan", **WAN_VAES[spatial_factor]}
        text = UMT5_XXL["vocab_size"] * UMT5_XXL["d_model"] + UMT5_XXL["num_layers"] * _text_block(UMT5_XXL)
        parameters = {"transformer": num_parameters, "vae": vae["parameters"], "text_encoder": text}
        return cls(transformer=transformer, vae=vae, text_encoder=UMT5_XXL, parameters=parameters)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done at a time.

    Args:
        video: frames and size that go through the model together.
        spatial_factor: pixels of a latent.
        text_tokens: rows of a prompt.
        num_semantic_tokens: of one anchor frame.
        with_guidance: two branches.
        tiles: the VAE works in tiles.
        device_memory: bytes, of which the sampler decides whether both branches go through at once.
    """

    video: VideoShape
    spatial_factor: int
    text_tokens: int
    num_semantic_tokens: int
    with_guidance: bool
    tiles: bool
    device_memory: int


def demand_of(parts: PartSizes, work: Work, *, dtype: str = "float32", storage_dtype: str = "same") -> Demand:
    """What an edit needs, in `load_pipeline`'s words for the dtypes."""
    itemsize, transformer = _BYTES[dtype], parts.transformer
    shape = LatentShape.from_video(work.video, work.spatial_factor)
    semantic = semantic_tokens(
        work.num_semantic_tokens, work.video.num_frames, transformer.get("semantic_grid", SEMANTIC_GRID)
    )
    num_tokens = 2 * shape.num_tokens(transformer.get("patch_size", PATCH)) + semantic
    branches = 2 if work.with_guidance and batches_guidance(transformer, num_tokens, work.device_memory) else 1
    frame = 3 * work.video.num_frames * work.video.height * work.video.width * 4  # the clip in float32
    work_of = {
        "encode": _vae_work(parts.vae, work, itemsize, decodes=False),
        "denoise": branches * block_work(transformer, num_tokens, itemsize),
        "decode": _vae_work(parts.vae, work, itemsize, decodes=True) + 2 * frame,
    }
    weights = {
        "transformer": _transformer_weights(parts, itemsize, storage_dtype),
        "vae": WeightSizes(num_bytes=parts.parameters["vae"] * itemsize, block_bytes=0, leaf_bytes=0),
    }
    if parts.text_encoder is not None:
        text = parts.text_encoder
        work_of["text"] = _text_work(text, work.text_tokens, itemsize)
        embeddings, block = text["vocab_size"] * text["d_model"], _text_block(text)
        weights["text_encoder"] = WeightSizes(
            num_bytes=parts.parameters["text_encoder"] * itemsize,
            block_bytes=max(block, embeddings / 2) * itemsize,  # the embeddings are read alone
            leaf_bytes=max(embeddings / 2, text["d_model"] * text["d_ff"]) * itemsize,
        )
    return Demand(weights=weights, work=work_of, always=frame)


def batches_guidance(transformer: Mapping[str, Any], num_tokens: int, device_memory: int) -> bool:
    """Whether both guidance branches, of `num_tokens` each, go through the transformer at once.

    Decided by the device's whole memory, not by what is free now, so that a seed gives the same bytes each time.
    """
    # A block holds about eight activations of the width and one of the feed-forward's, some of them in float32.
    activations = 2 * num_tokens * (8 * width_of(transformer) + transformer["ffn_dim"]) * 4
    return activations < _BATCHED_GUIDANCE_FRACTION * device_memory


def block_work(transformer: Mapping[str, Any], num_tokens: int, itemsize: int) -> float:
    """Bytes of what a forward pass of one block holds at its peak, for one guidance branch.

    The more of two: in the feed-forward, its hidden layer before and after GELU, and tokens; in attention, tokens,
    queries, keys, values, what normalises and rotates them, and the result. In half precision, two terms of the
    modulation on top, which Wan computes in float32; and a copy of the largest matrix, as products lay it out. The
    numbers were measured on a CPU, at widths of 1536, 2048 and 5120.
    """
    width, hidden = width_of(transformer), transformer["ffn_dim"]
    modulation = 8 * width if itemsize < 4 else 0
    per_token = max(2 * hidden + 3.3 * width, 9 * width) * itemsize + modulation
    return num_tokens * per_token + width * hidden * itemsize


def width_of(transformer: Mapping[str, Any]) -> int:
    """Of a token."""
    return transformer["num_attention_heads"] * transformer["attention_head_dim"]


def _transformer_weights(parts: PartSizes, itemsize: int, storage_dtype: str) -> WeightSizes:
    transformer, width = parts.transformer, width_of(parts.transformer)
    block = 8 * width**2 + 2 * width * transformer["ffn_dim"]  # its matrices
    narrowed = 0 if storage_dtype == "same" else transformer["num_layers"] * block * (itemsize - 1)
    return WeightSizes(
        num_bytes=parts.parameters["transformer"] * itemsize - narrowed,
        block_bytes=block * itemsize * min(2, transformer["num_layers"]) / 2,  # the next one is read ahead
        leaf_bytes=width * transformer["ffn_dim"] * itemsize,
    )


def _text_block(text: Mapping[str, Any]) -> int:
    """Parameters of a block of UMT5."""
    return 4 * text["d_model"] * text["num_heads"] * text["d_kv"] + 3 * text["d_model"] * text["d_ff"]


def _text_work(text: Mapping[str, Any], num_tokens: int, itemsize: int) -> float:
    logits = 3 * text["num_heads"] * num_tokens**2
    return (logits + num_tokens * (3 * text["d_ff"] + 6 * text["d_model"])) * itemsize


def _vae_work(vae: Mapping[str, Any], work: Work, itemsize: int, *, decodes: bool) -> float:
    """Wan's VAE works on four frames at a time, in tiles or on whole frames; the nano's on the whole clip."""
    height, width = work.video.height, work.video.width
    if work.tiles:
        tile = (side * work.spatial_factor for side in RELEASE_TILE)
        height, width = (min(side, most) for side, most in zip((height, width), tile, strict=True))
    if vae["_class_name"] != "AutoencoderKLWan":
        return _NANO_COPIES * 3 * work.video.num_frames * height * width * itemsize if decodes else 0
    features = vae["base_dim"]
    if decodes:
        features = vae.get("decoder_base_dim") or features
    maps = _WAN_TILE_MAPS if work.tiles else _WAN_DECODE_MAPS if decodes else _WAN_ENCODE_MAPS
    return maps * features * height * width / (vae.get("patch_size") or 1) ** 2 * itemsize
