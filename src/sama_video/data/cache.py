"""Encoded samples on disk: filled once by `sama data cache`, read by every epoch after.

An entry's key is a sha256 over everything that decides it: the encoder's weights and settings, the bytes of the file,
the crop, the pretext task and its seed, and `_FORMAT_VERSION`. Whatever changes, an old entry is not found any more.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..models.shapes import SEMANTIC_GRID
from ..system.errors import UserError
from ..system.files import hash_file, hash_weights
from .encoding import Encoder
from .samples import Recipe, Sample
from .shards import StoreWriter, TensorStore

# Raised whenever reading, resizing, transforming or encoding changes what comes out.
# 2: tube shuffle moves tubes in time (`pretext.tube_shuffle`), and the grid of semantic tokens may differ.
_FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What distinguishes the encoders of two runs, found without loading them.

    Args:
        vae, text, semantic: JSON texts of weights, settings and dtype; `semantic` is None without the encoder.
        text_length: L, rows that text features are filled up to.
    """

    vae: str
    text: str
    text_length: int
    semantic: str | None

    @classmethod
    def of_folders(
        cls,
        model: Path,
        *,
        dtype: torch.dtype,
        siglip: Path | None = None,
        num_anchors: int = 1,
        semantic_grid: int = SEMANTIC_GRID,
    ) -> "EncoderIdentity":
        """Of a pipeline's folder and a SigLIP model's, whose tokens are pooled to `semantic_grid` squared regions."""
        settings = json.loads((model / "model_index.json").read_text())
        prefix, length = settings["prompt_prefix"], settings["max_sequence_length"]
        text = {"encoder": _hash_folder(model / "text_encoder"), "tokenizer": _hash_folder(model / "tokenizer")}
        semantic = None
        if siglip is not None:
            pooling = {"anchors": num_anchors, "grid": semantic_grid}
            semantic = _json({"encoder": _hash_folder(siglip), "dtype": str(dtype), **pooling})
        return cls(
            vae=_json({"encoder": _hash_folder(model / "vae"), "dtype": str(dtype)}),
            text=_json({**text, "prefix": prefix, "length": length, "dtype": str(dtype)}),
            text_length=length,
            semantic=semantic,
        )

    def keys(self, recipe: Recipe) -> dict[str, str]:
        """The entry of each part of a sample: target, text and, where it has them, source and semantic."""
        keys = {
            "target": _key("latents", self.vae, recipe.target),
            "text": _key("text", self.text, recipe.prompt),
        }
        if recipe.source is not None:
            keys["source"] = _key("latents", self.vae, recipe.source)
        if self.semantic is not None:
            keys["semantic"] = _key("semantic", self.semantic, recipe.target)
        return keys


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _key(kind: str, encoder: str, content: object, version: int = _FORMAT_VERSION) -> str:
    return hashlib.sha256(_json([version, kind, encoder, content]).encode()).hexdigest()


def _hash_folder(folder: Path) -> str:
    """Of weights and of all other files: statistics of latents stand in a configuration, too."""
    others = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".safetensors")
    parts = [hash_weights(folder), *(f"{file.relative_to(folder)} {hash_file(file)}" for file in others)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class LatentCache:
    """Reads encoded samples.

    Args:
        folder: that `sama data cache` filled.
        identity: of the encoders that the run would use.
    """

    def __init__(self, folder: Path, identity: EncoderIdentity):
        self.store, self.identity = TensorStore(folder), identity

    def missing(self, recipe: Recipe) -> list[str]:
        """The parts of a sample that are not there."""
        return [name for name, key in self.identity.keys(recipe).items() if key not in self.store]

    def holds_older(self, recipe: Recipe) -> bool:
        """Whether an earlier version of the program encoded this target. What it wrote is not read any more."""
        older = (_key("latents", self.identity.vae, recipe.target, version) for version in range(1, _FORMAT_VERSION))
        return any(key in self.store for key in older)

    def read(self, recipe: Recipe) -> Sample:
        """Raises UserError for a sample of which a part is missing."""
        if missing := self.missing(recipe):
            raise UserError(
                f"the cache {self.store.folder} lacks {', '.join(missing)} of {recipe.name}; a file has changed: run "
                f"'sama data cache' again"
            )
        keys = self.identity.keys(recipe)
        parts = {name: self.store[key] for name, key in keys.items()}
        text = parts["text"]
        return Sample(
            target=parts["target"],
            source=parts.get("source"),
            text=F.pad(text, (0, 0, 0, self.identity.text_length - len(text))),
            semantic=parts.get("semantic"),
            prompt=recipe.prompt,
            task=recipe.task,
            name=recipe.name,
        )


def add_sample(
    writer: StoreWriter, encoder: Encoder, identity: EncoderIdentity, recipe: Recipe, load: Callable[[], Sample]
) -> int:
    """Encode and store what the cache lacks of a sample; pixels are read only if need be. Returns entries added."""
    keys = identity.keys(recipe)
    missing = [name for name, key in keys.items() if key not in writer]
    if "text" in missing:
        writer.add(keys["text"], _trimmed(encoder.text(recipe.prompt)))
    clips = [name for name in missing if name != "text"]
    if clips:
        sample = load()
        for name in clips:
            writer.add(keys[name], _encode_part(encoder, sample, name))
    return len(missing)


def _trimmed(text: torch.Tensor) -> torch.Tensor:
    """Without the zeros at its end, which `LatentCache.read` puts back."""
    return text[: int(text.any(dim=1).nonzero().max()) + 1]


def _encode_part(encoder: Encoder, sample: Sample, name: str) -> torch.Tensor:
    if name == "semantic":
        tokens = encoder.semantic(sample.target[None])
        assert tokens is not None
        return tokens[0]
    clip = sample.target if name == "target" else sample.source
    assert clip is not None
    return encoder.latents(clip[None])[0]
