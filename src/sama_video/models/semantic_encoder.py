"""SigLIP frames -> M local + 1 global tokens: the anchors of the semantic stream (paper section 3.2).

Shape legend: N anchor frames, H W pixels, M local tokens, D the vision model's width.
"""

from math import isqrt
from pathlib import Path
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers import SiglipVisionModel

from ..system.errors import UserError
from .hub import fetch_folder, is_hub_id
from .presets import NANO_SIGLIP
from .strict_loading import load_part
from .weight_files import read_json_object

# SigLIP's own image processor, where a checkpoint does not bring one.
_DEFAULT_MEAN = _DEFAULT_STD = (0.5, 0.5, 0.5)
_SUPPORTED = ("siglip", "siglip_vision_model")


def find_semantic_encoder(name: str) -> Path:
    """The folder of a SigLIP model: "nano" for the one that ships, a local folder, or a hub id, which is fetched.

    Raises:
        UserError: for a name that is none of these, and if it could not be fetched.
    """
    if name == "nano":
        return NANO_SIGLIP
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise UserError(f"no SigLIP model {name!r}: give 'nano', a local folder or a hub id (owner/name)")
    return fetch_folder(name, ["*.json", "*.safetensors"])


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
        mean: tuple[float, ...] = _DEFAULT_MEAN,
        std: tuple[float, ...] = _DEFAULT_STD,
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
            UserError: for a folder that holds anything else, and as `load_part`, which loads strictly.
        """
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} has no config.json: it is not a SigLIP model; give its folder")
        config = read_json_object(folder / "config.json")
        model_type = config.get("model_type", "nameless")
        if model_type not in _SUPPORTED:
            raise UserError(f"{folder} holds a {model_type} model; give a fixed-resolution SigLIP or SigLIP 2 model")
        vision_model = load_part(_VisionHalf, folder, config, dtype=dtype)
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


class _VisionHalf(SiglipVisionModel):
    """Loads from a whole `SiglipModel` without a word on the text half."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^text_model\.", r"^logit_(scale|bias)$"]


def _statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    file = folder / "preprocessor_config.json"
    settings = read_json_object(file) if file.exists() else {}
    found = {"mean": settings.get("image_mean", _DEFAULT_MEAN), "std": settings.get("image_std", _DEFAULT_STD)}
    for name, values in found.items():
        numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
        if not numbers or len(values) != 3 or (name == "std" and min(values) <= 0):
            raise UserError(f"{file}: image_{name} is {values} and must be three numbers, above 0 for std; correct it")
    return {name: tuple(values) for name, values in found.items()}
