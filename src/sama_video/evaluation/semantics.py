"""What a SigLIP model sees: whether frames agree with the instruction, and with each other.

Shape legend: F frames, H W pixels, D the model's width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import SiglipModel

from ..models.semantic_encoder import SemanticEncoder, find_semantic_encoder
from ..models.strict_loading import load_part
from ..models.weight_files import read_json_object
from ..pipelines.loading import load_tokenizer
from ..system.errors import UserError

_BATCH_FRAMES = 16


class SemanticScorer:
    """Scores by a SigLIP model with both halves and its tokenizer.

    Args:
        name: "nano", a local folder or a hub id.

    Raises:
        UserError: for anything else.
    """

    def __init__(self, name: str):
        folder = find_semantic_encoder(name)
        self.frames_encoder = SemanticEncoder.from_pretrained(folder)
        try:
            self.tokenizer = load_tokenizer(folder)
            self.model = load_part(SiglipModel, folder, read_json_object(folder / "config.json"), dtype=torch.float32)
        except UserError as error:
            raise UserError(f"{folder} lacks the text half of SigLIP or its tokenizer: {error}") from error

    @torch.inference_mode()
    def __call__(self, clip: np.ndarray, instruction: str) -> dict[str, float | None]:
        """`text_agreement` and `frame_consistency` (see `metrics.METRICS`) of uint8 `[F, H, W, 3]`."""
        batches = torch.from_numpy(clip).split(_BATCH_FRAMES)
        frames = F.normalize(torch.cat([self.frames_encoder(batch)[:, -1] for batch in batches]), dim=-1)
        tokens = self.tokenizer(instruction, padding="max_length", truncation=True, return_tensors="pt")
        text = self.model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
        assert text is not None
        neighbours = (frames[1:] * frames[:-1]).sum(dim=-1)
        return {
            "text_agreement": float(F.cosine_similarity(frames.mean(dim=0), text[0], dim=0)),
            "frame_consistency": float(neighbours.mean()) if len(neighbours) else None,
        }
