"""What weights are that were given for something else: named for what they are, with what to do about it."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from ..system.data_files import table_beside
from ..system.errors import UserError

TRANSFORMER, VAE, TEXT_ENCODER = "a SAMA or Wan text-to-video transformer", "a Wan VAE", "a UMT5 encoder of Wan's"

_SIGNS = table_beside(__file__)
PARTS = (
    (r"^(model\.)?(encoder|decoder)\.(conv1|conv_in|downsamples|upsamples|down_blocks|up_blocks)\.", VAE, "`vae`"),
    (r"^encoder\.block\.|^shared\.weight$|^token_embedding\.weight$", TEXT_ENCODER, "`text_encoder`"),
    (r"(^|\.)blocks\.\d+\.(self_attn|attn1)\.", TRANSFORMER, "SOURCE"),
)


def foreign_kind(names: Collection[str], table: str) -> str | None:
    """What a file is by one of its names, and what to do about it; None if no name says so.

    Args:
        table: "weights", or "loras" for a file of changes.
    """
    for pattern, kind, advice in _SIGNS[table]:
        if found := next((name for name in names if re.search(pattern, name)), None):
            return f"{kind} ({found}); {advice}"
    return None


def refuse_foreign(names: Iterable[str], where: Path | str, wanted: str) -> None:
    """Raises UserError, saying what the weights are, unless they may be what is wanted (one of the three above)."""
    names = list(names)
    if foreign := foreign_kind(names, "weights"):
        raise UserError(f"{where} is not {wanted}: it is {foreign}")
    for pattern, kind, option in PARTS:
        if kind != wanted and any(re.search(pattern, name) for name in names):
            raise UserError(f"{where} is not {wanted}: it is {kind}; pass it as {option}")
