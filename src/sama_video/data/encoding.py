"""Samples as the transformer takes them: latents, text and semantic tokens, encoded one sample at a time.

Shape legend: F frames, H W pixels, Z latent channels, f h w latent grid, L text tokens, S semantic tokens, D width.

One at a time also where a batch could be encoded at once: the arithmetic of a batch depends on its size, and training
from a cache must equal training without one to the bit.
"""

import torch
from einops import rearrange

from ..models.latents import encode_video, video_to_model_range
from ..models.semantic_encoder import SemanticEncoder
from ..pipelines.pipeline_sama import SamaPipeline
from .anchors import anchor_indices
from .samples import Batch, Sample


class Encoder:
    """The frozen encoders of a pipeline, and SigLIP. What they give keeps their own dtype.

    Args:
        pipe: whose autoencoder and text encoder to use.
        semantic_encoder: None for training without the semantic stream.
        num_anchors: N anchor frames of a video (paper section 3.2); an image is its own.
        with_text: False where the text encoder trains: samples then have no text features.
    """

    def __init__(
        self,
        pipe: SamaPipeline,
        semantic_encoder: SemanticEncoder | None = None,
        *,
        num_anchors: int = 1,
        with_text: bool = True,
    ):
        self.pipe, self.semantic_encoder, self.num_anchors = pipe, semantic_encoder, num_anchors
        self.with_text = with_text

    def to(self, device: torch.device, *, text: bool) -> None:
        """Move the encoders of pixels, and with `text` the one of prompts."""
        for part in (self.pipe.vae, self.semantic_encoder, self.pipe.text_encoder if text else None):
            if part is not None:
                part.to(device)

    @torch.no_grad()
    def latents(self, clip: torch.Tensor) -> torch.Tensor:
        """uint8 `[F, H, W, 3]` -> normalised latents `[Z, f, h, w]`."""
        video = video_to_model_range(clip.to(self.pipe.vae.device))
        return encode_video(self.pipe.vae, video, self.pipe.vae_tiling)[0]

    @torch.no_grad()
    def text(self, prompt: str) -> torch.Tensor:
        """`[L, D]`, rows beyond the prompt's end are zero. The pipeline's prefix comes before the prompt."""
        encoder = self.pipe.text_encoder
        assert encoder is not None
        embeds, _ = self.pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=encoder.device, dtype=encoder.dtype
        )
        # Masking leaves -0 in some places beyond the prompt's end; a cache gives +0 back.
        return embeds[0] + 0.0

    def semantic(self, target: torch.Tensor) -> torch.Tensor | None:
        """uint8 `[F, H, W, 3]` -> tokens of its anchor frames `[S, D]`."""
        if self.semantic_encoder is None:
            return None
        anchors = anchor_indices(len(target), 1 if len(target) == 1 else self.num_anchors)
        return rearrange(self.semantic_encoder(target[anchors]), "n s d -> (n s) d")

    def encode_sample(self, sample: Sample) -> Sample:
        return Sample(
            target=self.latents(sample.target),
            source=None if sample.source is None else self.latents(sample.source),
            text=self.text(sample.prompt) if self.with_text else None,
            semantic=self.semantic(sample.target),
            prompt=sample.prompt,
            task=sample.task,
            name=sample.name,
        )

    def encode_batch(self, batch: Batch) -> Batch:
        return batch.with_samples([self.encode_sample(sample) for sample in batch.select(range(len(batch.names)))])
