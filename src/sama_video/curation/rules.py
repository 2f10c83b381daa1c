"""What decides which pairs are kept: the judge, its turns and the paper's thresholds (Appendix B)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..judge.questions import SEED_STRIDE, JudgeConfig
from ..system.errors import UserError
from .prompts import PROMPTS, TASK

_IMAGE_THRESHOLDS = {"instruction_following": 9.0, "visual_quality": 9.0, "content_preservation": 9.0}
_VIDEO_THRESHOLDS = {
    "instruction_following": 8.0,
    "visual_quality": 9.0,
    "content_preservation": 8.0,
    "motion_consistency": 8.0,
}


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Appendix B's filter. The paper leaves open the judge's temperature, the frames it sees and their size, and what
    becomes of turns that fail: the defaults are ours.

    Args:
        judge: model, sampling, media, endpoint.
        turns: each prompt is asked so often, and its scores are averaged.
        image_thresholds, video_thresholds: smallest average that is kept, by dimension.
    """

    judge: JudgeConfig
    turns: int = 3
    image_thresholds: dict[str, float] = field(default_factory=_IMAGE_THRESHOLDS.copy)
    video_thresholds: dict[str, float] = field(default_factory=_VIDEO_THRESHOLDS.copy)

    def __post_init__(self):
        if not 1 <= self.turns < SEED_STRIDE:
            raise UserError(f"turns must be from 1 to {SEED_STRIDE - 1}, got {self.turns}")
        if self.judge.media.kind == "side_by_side":
            raise UserError("the prompts of Appendix B speak of a first and a second video; use `media` frames")

    @property
    def min_turns(self) -> int:
        """A score counts if most of its turns do; otherwise the pair is rejected, since no score is made up."""
        return self.turns // 2 + 1

    def thresholds(self, kind: str) -> dict[str, float]:
        """For `image` or `video`."""
        return self.image_thresholds if kind == "image" else self.video_thresholds

    def with_thresholds(self, pairs: Sequence[str]) -> "CurationConfig":
        """A copy with thresholds such as `video.visual_quality=8.5`.

        Raises:
            UserError: for one that does not exist.
        """
        thresholds = {"image": dict(self.image_thresholds), "video": dict(self.video_thresholds)}
        for pair in pairs:
            name, _, value = pair.partition("=")
            kind, _, dimension = name.partition(".")
            if dimension not in thresholds.get(kind, {}):
                known = ", ".join(f"{kind}.{one}" for kind in thresholds for one in thresholds[kind])
                raise UserError(f"there is no threshold {name!r}; use one of {known}")
            try:
                thresholds[kind][dimension] = float(value)
            except ValueError as error:
                raise UserError(f"a threshold is a number, for example {name}=8.5, got {pair!r}") from error
        return replace(self, image_thresholds=thresholds["image"], video_thresholds=thresholds["video"])

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on besides the manifest, for the report."""
        judge = self.judge
        return {
            "task": TASK,
            "prompts_sha256": {prompt.name: hashlib.sha256(prompt.text.encode()).hexdigest() for prompt in PROMPTS},
            "model": judge.model,
            "temperature": judge.temperature,
            "max_tokens": judge.max_tokens,
            "max_attempts": judge.max_attempts,
            "media": judge.media.settings,
            "turns": self.turns,
            "min_turns": self.min_turns,
            "image_thresholds": self.image_thresholds,
            "video_thresholds": self.video_thresholds,
        }
