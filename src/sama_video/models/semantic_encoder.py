"""SigLIP frames -> M local + 1 global tokens: the anchors of the semantic stream (paper section 3.2).

Shape legend: N anchor frames, H W pixels, M local tokens, D the vision model's width.
"""

import json
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn
from transformers import SiglipVisionModel

from ..errors import UserError
from .presets import NANO_SIGLIP

# SigLIP's own image processor, where a checkpoint does not bring one.
DEFAULT_MEAN = DEFAULT_STD = (0.5, 0.5, 0.5)
SUPPORTED = ("siglip", "siglip_vision_model")


def find_semantic_encoder(name: str) -> Path:
    """The folder of a SigLIP model: "nano" for the one that ships, a local folder, or a hub id, which is fetched.

    Raises:
        UserError: for a name that is none of these.
    """
    if name == "nano":
        return NANO_SIGLIP
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no SigLIP model {name!r}: give 'nano', a local folder or a hub id (owner/name)")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(f"cannot fetch the SigLIP model {name} ({str(error).splitlines()[0]})") from error


class SemanticEncoder(nn.Module):
    """A frozen SigLIP vision model that turns frames into semantic tokens.

    Local tokens are the patch features averaged over a grid of M cells, row by row; the global token, the pooled
    output, comes last.

    Args:
        vision_model: any `SiglipVisionModel` with a pooling head.
        num_local_tokens: M, a square number; 64 in the paper (section 4.1).
        mean, std: of a channel in 0..1.

    Raises:
        ValueError: if M is no square number.
        UserError: for a model without a pooling head, or with fewer patches than tokens.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        vision_model: SiglipVisionModel,
        *,
        num_local_tokens: int = 64,
        mean: tuple[float, ...] = DEFAULT_MEAN,
        std: tuple[float, ...] = DEFAULT_STD,
    ):
        super().__init__()
        self.grid = isqrt(num_local_tokens)
        if num_local_tokens < 1 or self.grid**2 != num_local_tokens:
            raise ValueError(f"num_local_tokens must be a square number, got {num_local_tokens}; use 16, 36 or 64")
        config = vision_model.config
        if not config.vision_use_head:
            raise UserError("this SigLIP model has no pooling head, and its pooled output is the global token")
        self.image_size = cast("int", config.image_size)  # a pair in configurations of other models only
        self.patches = self.image_size // cast("int", config.patch_size)
        if self.patches < self.grid:
            raise UserError(
                f"this SigLIP model sees {self.patches}x{self.patches} patches, too few for {num_local_tokens} local "
                f"tokens; take one with a larger image or at most {self.patches**2} tokens"
            )
        self.vision_model = vision_model.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, num_local_tokens: int = 64, dtype: torch.dtype = torch.float32
    ) -> "SemanticEncoder":
        """Load from a folder that holds a `SiglipVisionModel` or a whole `SiglipModel`.

        SigLIP 2 checkpoints of a fixed resolution are `SiglipModel`s too. Mean and standard deviation come from
        `preprocessor_config.json` where there is one.

        Raises:
            UserError: for a folder that holds anything else, or not all of the vision model's weights.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} has no config.json: it is not a SigLIP model; give its folder")
        model_type = _model_type(folder / "config.json")
        if model_type not in SUPPORTED:
            raise UserError(f"{folder} holds a {model_type} model; give a fixed-resolution SigLIP or SigLIP 2 model")
        vision_model = _load_vision_model(folder, dtype)
        return cls(vision_model, num_local_tokens=num_local_tokens, **_statistics(folder))

    @property
    def num_tokens(self) -> int:
        """Per frame: M local and one global."""
        return self.grid**2 + 1

    def preprocess(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, H, W, 3]` -> normalised `[N, 3, S, S]` at the model's image size."""
        size = (self.image_size, self.image_size)
        pixels = rearrange(frames.to(self.mean.device), "n h w c -> n c h w").float() / 255
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
        return (pixels.clamp(0, 1) - self.mean) / self.std

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, H, W, 3]` -> tokens `[N, M + 1, D]`, the global one last."""
        output = self.vision_model(self.preprocess(frames).to(self.vision_model.dtype))
        patches = rearrange(output.last_hidden_state, "n (h w) d -> n d h w", h=self.patches)
        local = rearrange(F.adaptive_avg_pool2d(patches, self.grid), "n d h w -> n (h w) d")
        return torch.cat([local, output.pooler_output.unsqueeze(1)], dim=1)


def _model_type(file: Path) -> str:
    """AutoConfig would say it too, and complain of every SigLIP's text half."""
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("model_type", "nameless")
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}); fetch the model again") from error


class _VisionHalf(SiglipVisionModel):
    """Loads from a whole `SiglipModel` without a word on the text half."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^text_model\.", r"^logit_(scale|bias)$"]


def _load_vision_model(folder: Path, dtype: torch.dtype) -> SiglipVisionModel:
    try:
        loaded: Any = _VisionHalf.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the SigLIP model in {folder} ({str(error).splitlines()[0]})") from error
    model, report = loaded
    if report["missing_keys"]:
        raise UserError(f"{folder} lacks weights of the vision model, such as {min(report['missing_keys'])}")
    return model


def _statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    return {
        "mean": tuple(settings.get("image_mean", DEFAULT_MEAN)),
        "std": tuple(settings.get("image_std", DEFAULT_STD)),
    }
