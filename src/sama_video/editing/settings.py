"""How to edit one file: the settings, checked when they are made."""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from ..pipelines.selection import ModelInfo
from ..system.errors import UserError
from ..video import CODECS

_LOWEST = {
    "seed": 0,
    "num_inference_steps": 1,
    "height": 1,
    "width": 1,
    "max_pixels": 1,
    "max_source_pixels": 1,
    "start": 0,
    "num_frames": 1,
    "source_refresh": 1,
    "guidance_start": 0,
    "strength": 0,
    "feather": 0,
}
# What step-distilled models and LoRA files of the Wan family are made for (lightx2v, CausVid): no guidance either.
FAST_STEPS = 4
MOST_STRENGTH = 4.0
# What "a little" and "much" stand for.
WEAK_STRENGTH, STRONG_STRENGTH = 0.5, 1.6
_CHOICES = {
    "fit": ("resize", "crop", "pad", "release"),
    "output_size": ("source", "model"),
    "detail": ("source", "none"),
    "codec": CODECS,
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in a picture: in pixels or, with `in_percent`, in hundredths of its sides."""

    x: float
    y: float
    width: float
    height: float
    in_percent: bool

    @classmethod
    def parse(cls, text: str) -> "Box":
        """Of "X,Y,WIDTH,HEIGHT", in pixels or with "%"; a plain 0 is either. Raises UserError for anything else."""
        parts = [re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", part) for part in text.split(",")]
        numbers = [float(part[1]) for part in parts if part is not None]
        units = {part[2] for part in parts if part is not None and float(part[1])}
        if len(parts) != 4 or len(numbers) != 4 or len(units) != 1 or not (numbers[2] and numbers[3]):
            raise UserError(
                f"`box` must be X,Y,WIDTH,HEIGHT in pixels or in percent, such as 10%,20%,50%,50%, got {text!r}"
            )
        x, y, width, height = numbers
        return cls(x=x, y=y, width=width, height=height, in_percent=units == {"%"})

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width in a picture of this size."""
        down, across = (height / 100, width / 100) if self.in_percent else (1, 1)
        return round(self.y * down), round(self.x * across), round(self.height * down), round(self.width * across)


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """How to edit one file.

    Args:
        negative_prompt: what guidance leads away from.
        seed: of both streams.
        num_inference_steps, guidance_scale, flow_shift: None for the model's own.
        fast: at most 4 steps and no guidance, where these are not given: for models and LoRA files distilled for it.
        guidance_start, guidance_end: the part of the steps that guidance works in; outside of it a step costs half.
        source_refresh: compute the source's tokens in every so many steps; 1 is exact (see `SamaPipeline`).
        height, width: the model's working size; None for the source's aspect ratio at the model's native area.
        max_pixels: working area instead of the model's native one.
        max_source_pixels: of a source's frame; a larger one is refused before it is decoded. None for the usual limit.
        start: seconds into the source at which to begin.
        num_frames: edit only so many frames; None for all.
        end: seconds into the source at which to end, instead of `num_frames`.
        strength: how far the result goes from the source: 0 is the source, 1 what the model makes of it, more goes
            beyond. None for 1, or what "a little" and "much" in the instruction stand for where the model has not
            learned these words.
        mask: a picture or clip, white where the source is edited; outside it stays as it is.
        box: "X,Y,WIDTH,HEIGHT" of the source that is edited, in pixels or with "%"; with `mask` only what both select.
        feather: pixels of the source over which an edit fades in from the border of its region; None for 2 % of the
            shorter side.
        fit: how a source of another aspect ratio meets the working size: squeezed a little ("resize"), cut ("crop"),
            or with borders that are taken off again ("pad"). "release" cuts as the authors' release does, to its
            sizes: the frames that the released weights would have seen there.
        output_size: "source" or "model".
        detail: "source" brings back the source's own resolution (see `detail.py`), "none" resizes plainly. None means
            "source" where the working size is below the source's.
        codec: of the pictures: "h264", "hevc" (10 bits), "prores", "vp9", "gif", "webp" or "apng"; None for the usual
            one of the file's kind.
        crf: quality on x264's scale, lower is better; 0 keeps every pixel (H.264 then in RGB, which browsers do not
            play).
    """

    negative_prompt: str | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    flow_shift: float | None = None
    fast: bool = False
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    source_refresh: int = 1
    height: int | None = None
    width: int | None = None
    max_pixels: int | None = None
    max_source_pixels: int | None = None
    start: float = 0.0
    num_frames: int | None = None
    end: float | None = None
    strength: float | None = None
    mask: str | None = None
    box: str | None = None
    feather: int | None = None
    fit: Literal["resize", "crop", "pad", "release"] = "resize"
    output_size: Literal["source", "model"] = "source"
    detail: Literal["source", "none"] | None = None
    codec: str | None = None
    crf: int = 16

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                raise UserError(f"`{name}` must be at least {lowest}, got {value}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UserError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")
        if self.seed >= 2**63:
            raise UserError(f"`seed` must be below 2**63, got {self.seed}")
        if not 0 <= self.crf <= 51:
            raise UserError(f"`crf` must be in 0..51, got {self.crf}")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise UserError(f"`guidance_scale` must be a finite number, got {self.guidance_scale}; 1 is no guidance")
        if self.flow_shift is not None and not 0 < self.flow_shift < math.inf:
            raise UserError(f"`flow_shift` must be above 0, got {self.flow_shift}; 1 is no shift")
        if not self.guidance_start <= self.guidance_end <= 1:
            raise UserError(
                f"`guidance_end` must be between `guidance_start`, here {self.guidance_start:g}, and 1, got "
                f"{self.guidance_end:g}"
            )
        if self.strength is not None and self.strength > MOST_STRENGTH:
            raise UserError(f"`strength` must be at most {MOST_STRENGTH:g}, got {self.strength:g}")
        if self.box is not None:
            Box.parse(self.box)
        if self.feather is not None and self.mask is None and self.box is None:
            raise UserError("`feather` softens the border of a region; give `mask` or `box`, too")
        if self.end is not None and self.num_frames is not None:
            raise UserError("`end` and `num_frames` both say where to stop; give one of them")
        if self.end is not None and not self.start < self.end < math.inf:
            raise UserError(f"`end` must come after `start`, here {self.start:g} s, got {self.end:g}")
        if self.fit == "release" and not self.height == self.width == self.max_pixels is None:
            raise UserError("`fit` release has sizes of its own; leave `height`, `width` and `max_pixels` out")
        if (self.height is None) != (self.width is None):
            raise UserError("give both `height` and `width`, or neither")

    def hastened(self, model: ModelInfo) -> "EditSettings":
        """With what `fast` stands for."""
        if not self.fast:
            return self
        steps = min(FAST_STEPS, model.default_num_inference_steps)
        return self._filled(num_inference_steps=steps, guidance_scale=1.0)

    def resolved(self, model: ModelInfo) -> "EditSettings":
        """With a model's own numbers where none were given."""
        names = ("num_inference_steps", "guidance_scale", "flow_shift")
        return self.hastened(model)._filled(**{name: getattr(model, f"default_{name}") for name in names})

    def _filled(self, **values: float) -> "EditSettings":
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})
