"""Samples as the transformer takes them: latents, text and semantic tokens, encoded one sample at a time.

Shape legend: F frames, H W pixels, Z latent channels, f h w latent grid, L text tokens, S semantic tokens, D width.

One at a time also where a batch could be encoded at once: the arithmetic of a batch depends on its size, and training
from a cache must equal training without one to the bit. On a GPU the engine's samples, which no cache holds, are
encoded together.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange

from ..models.latents import encode_video, video_to_model_range
from ..models.semantic_encoder import SemanticEncoder
from ..models.shapes import anchor_indices
from ..pipelines.pipeline_sama import SamaPipeline
from .samples import Batch, Sample


class Encoder:
    """The frozen encoders of a pipeline, and SigLIP. What they give keeps their own dtype.

    Args:
        pipe: whose autoencoder and text encoder to use.
        semantic_encoder: None for training without the semantic stream.
        num_anchors: N anchor frames of a video (paper section 3.2); an image is its own.
        with_text: False where the text encoder trains: samples then have no text features.
        together: encode a batch at once: much faster on a GPU, and not to the bit what a cache would give.
    """

    def __init__(
        self,
        pipe: SamaPipeline,
        semantic_encoder: SemanticEncoder | None = None,
        *,
        num_anchors: int = 1,
        with_text: bool = True,
        together: bool = False,
    ):
        self.pipe, self.semantic_encoder, self.num_anchors = pipe, semantic_encoder, num_anchors
        self.with_text, self.together = with_text, together

    def to(self, device: torch.device, *, text: bool) -> None:
        """Move the encoders of pixels, and with `text` the one of prompts."""
        for part in (self.pipe.vae, self.semantic_encoder, self.pipe.text_encoder if text else None):
            if part is not None:
                part.to(device)

    @torch.no_grad()
    def latents(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, F, H, W, 3]` -> normalised latents `[B, Z, f, h, w]`."""
        video = video_to_model_range(clips.to(self.pipe.vae.device, non_blocking=True))
        return encode_video(self.pipe.vae, video, self.pipe.vae_tiling)

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

    def semantic(self, targets: torch.Tensor) -> torch.Tensor | None:
        """uint8 `[B, F, H, W, 3]` -> tokens of their anchor frames `[B, S, D]`."""
        if self.semantic_encoder is None:
            return None
        num_frames = targets.shape[1]
        anchors = targets[:, anchor_indices(num_frames, 1 if num_frames == 1 else self.num_anchors)]
        tokens = self.semantic_encoder(rearrange(anchors, "b n h w c -> (b n) h w c"))
        return rearrange(tokens, "(b n) s d -> b (n s) d", b=len(targets))

    def encode_sample(self, sample: Sample) -> Sample:
        semantic = self.semantic(sample.target[None])
        return replace(
            sample,
            target=self.latents(sample.target[None])[0],
            source=None if sample.source is None else self.latents(sample.source[None])[0],
            text=self.text(sample.prompt) if self.with_text else None,
            semantic=None if semantic is None else semantic[0],
        )

    def encode_batch(self, batch: Batch) -> Batch:
        """A whole batch in pixels."""
        return self.encode_portion(batch, range(len(batch.prompts)))

    def encode_portion(self, batch: Batch, indices: Sequence[int]) -> Batch:
        """Samples of a batch in pixels that follow each other."""
        if not self.together:
            return batch.with_samples([self.encode_sample(sample) for sample in batch.select(indices)])
        run = slice(indices[0], indices[-1] + 1)  # a view: pixels are not copied
        prompts = batch.prompts[run]
        return replace(
            batch,
            target=self.latents(batch.target[run]),
            source=None if batch.source is None else self.latents(batch.source[run]),
            text=torch.stack([self.text(prompt) for prompt in prompts]) if self.with_text else None,
            semantic=self.semantic(batch.target[run]),
            prompts=prompts,
            tasks=batch.tasks[run],
            names=batch.names[run],
        )
