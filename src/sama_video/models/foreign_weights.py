"""What weights are that were given for something else: named for what they are, with what to do about it."""

import re
from collections.abc import Iterable
from pathlib import Path

from ..system.errors import UserError

TRANSFORMER, VAE, TEXT_ENCODER = "a SAMA or Wan text-to-video transformer", "a Wan VAE", "a UMT5 encoder of Wan's"

# What a name says of the file that it is in: (pattern in any name, what it is, what to do). The first that fits counts.
_NO_PLACE = "SAMA has no place for these parts; convert the text-to-video model that it was made from"
_OTHER_FAMILY = "only Wan 2.1 and 2.2 text-to-video models and those trained from them fit"
_SIGNS = (
    (r"\.lora_|\.lora\.|^lora_|\.lokr_|\.hada_|\.dora_scale$|\.diff(_b|_m)?$", "a LoRA",
     "pass it to 'sama edit' as --lora, or to 'sama convert' as SOURCE with --merge-into MODEL"),
    (r"(^|\.)vace_", "a VACE model", _NO_PLACE),
    (r"(^|\.)(img_emb|image_embedder)\.|\.(k_img|v_img|add_k_proj|add_v_proj)\.", "an image-to-video model", _NO_PLACE),
    (r"(^|\.)(control_adapter|ref_conv|control_blocks|controlnet_\w+)\.", "a model with a control branch (Fun-Control "
     "and its kin)", _NO_PLACE),
    (r"(^|\.)(audio_\w+|casual_audio_encoder|audio_injector)\.", "a speech-to-video model", _NO_PLACE),
    (r"(^|\.)(motion_encoder|face_adapter|face_encoder|pose_patch_embedding)\.", "a Wan-Animate model", _NO_PLACE),
    (r"(^|\.)(fps_embedding|fps_projection|cam_encoder|mask_token)\b", "a Wan model with parts of its own", _NO_PLACE),
    (r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\.", "a FLUX or HunyuanVideo model", _OTHER_FAMILY),
    (r"(^|\.)(joint_blocks|transformer_blocks)\.", "a transformer of another family", _OTHER_FAMILY),
    (r"(^|\.)(input_blocks|output_blocks|middle_block)\.|^down_blocks\..*attentions", "a Stable Diffusion U-Net",
     _OTHER_FAMILY),
    (r"^(visual|textual|vision_model|text_model)\.|(^|\.)logit_scale$", "an image encoder (CLIP or SigLIP)",
     "it is no part of this model; leave it out"),
)  # fmt: skip
PARTS = (
    (r"^(model\.)?(encoder|decoder)\.(conv1|conv_in|downsamples|upsamples|down_blocks|up_blocks)\.", VAE, "`vae`"),
    (r"^encoder\.block\.|^shared\.weight$|^token_embedding\.weight$", TEXT_ENCODER, "`text_encoder`"),
    (r"(^|\.)blocks\.\d+\.(self_attn|attn1)\.", TRANSFORMER, "SOURCE"),
)


def refuse_foreign(names: Iterable[str], where: Path | str, wanted: str) -> None:
    """Raises UserError, saying what the weights are, unless they may be what is wanted (one of the three above)."""
    names = list(names)
    for pattern, kind, advice in _SIGNS:
        if found := next((name for name in names if re.search(pattern, name)), None):
            raise UserError(f"{where} is not {wanted}: it is {kind} ({found}); {advice}")
    for pattern, kind, option in PARTS:
        if kind != wanted and any(re.search(pattern, name) for name in names):
            raise UserError(f"{where} is not {wanted}: it is {kind}; pass it as {option}")
