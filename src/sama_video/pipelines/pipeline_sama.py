"""Instruction-guided video editing: noise, encode, denoise two streams with one scheduler, decode.

Shape legend: B batch, F frames, H W pixels, Z latent channels, f h w latent grid, L text tokens, S semantic tokens.
The time convention is that of `models/transformer_sama.py`.
"""

import html
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import ftfy
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from ..models.autoencoder_sama_nano import AutoencoderSamaNano
from ..models.latents import Tiling, decode_latents, encode_video
from ..models.transformer_sama import SamaTransformer3DModel
from ..shapes import (
    LatentShape,
    VideoShape,
    is_valid_num_frames,
    nearest_multiple,
    neighbouring_num_frames,
    semantic_tokens,
)
from .lora import SamaLoraLoaderMixin
from .pipeline_output import SamaPipelineOutput
from .selection import ModelFacts

if TYPE_CHECKING:
    from .selection import Loading

Video = Sequence[PIL.Image.Image] | np.ndarray | torch.Tensor

# Share of the device's memory that one batched forward pass of both guidance branches may take.
BATCHED_GUIDANCE_SHARE = 0.25
FLOW = "flow_prediction"


def clean_prompt(text: str) -> str:
    """Broken Unicode and HTML entities mended, white space folded, as Wan's release does before tokenizing."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _stack_pictures(pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
    """uint8 `[F, H, W, 3]`."""
    if isinstance(pictures, str | os.PathLike) or not all(isinstance(one, PIL.Image.Image) for one in pictures):
        raise ValueError(
            f"a video is PIL images, an array [F, H, W, 3] or a tensor [F, 3, H, W], got {type(pictures).__name__}; "
            "sama_video.edit_video takes files"
        )
    if not pictures:
        raise ValueError("the video has no frames; give at least one")
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"the frames have several sizes (width, height): {sorted(sizes)}; resize them to one")
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


class SamaPipeline(DiffusionPipeline, SamaLoraLoaderMixin):
    """Edits a video by an instruction (paper section 3).

    Args:
        transformer: the denoiser.
        vae: any autoencoder with `AutoencoderKLWan`'s interface.
        text_encoder, tokenizer: None if every call brings `prompt_embeds`.
        scheduler: None for the release's sampler (flow-match Euler); `set_timesteps` says which others work.
        prompt_prefix: put before prompt and negative prompt; the released weights expect `"[Video edit] "`.
        max_sequence_length: text tokens, padded with zeros.
        num_semantic_tokens: tokens of the semantic stream (64 local + 1 global per anchor frame); 0 without.
        native_area, native_num_frames: pixels per frame and frames that the model was trained at.
        default_num_inference_steps, default_guidance_scale, default_flow_shift: of a call that does not say.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    # Components with a default value must stand here, or `save_pretrained` takes them for settings.
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer", "scheduler"]
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "semantic_latents",
        "prompt_embeds",
        "negative_prompt_embeds",
    ]

    def __init__(
        self,
        transformer: SamaTransformer3DModel,
        vae: AutoencoderKLWan | AutoencoderSamaNano,
        text_encoder: UMT5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        scheduler: FlowMatchEulerDiscreteScheduler | None = None,
        prompt_prefix: str = "[Video edit] ",
        max_sequence_length: int = 512,
        num_semantic_tokens: int = 65,
        native_area: int = ModelFacts.native_area,
        native_num_frames: int = ModelFacts.native_num_frames,
        default_num_inference_steps: int = ModelFacts.default_num_inference_steps,
        default_guidance_scale: float = ModelFacts.default_guidance_scale,
        default_flow_shift: float = ModelFacts.default_flow_shift,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=default_flow_shift),
        )
        self.register_to_config(
            prompt_prefix=prompt_prefix,
            max_sequence_length=max_sequence_length,
            num_semantic_tokens=num_semantic_tokens,
            native_area=native_area,
            native_num_frames=native_num_frames,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
            default_flow_shift=default_flow_shift,
        )
        self.vae_tiling: Tiling | None = None
        self.loaded_as: Loading | None = None  # set by `load_pipeline`, for the records of results
        self.forget_adapters()

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts.of(self.config, self.vae.config, self.transformer.config)

    @property
    def pixel_multiple(self) -> int:
        """What height and width must divide by."""
        return self.facts.pixel_multiple

    def enable_vae_tiling(self, tile_size: tuple[int, int] = (30, 52), tile_stride: tuple[int, int] = (15, 26)) -> None:
        """Encode the source and decode the result in tiles as the release does (latent units, see `Tiling`)."""
        self.vae_tiling = Tiling(size=(tile_size[0], tile_size[1]), stride=(tile_stride[0], tile_stride[1]))

    def disable_vae_tiling(self) -> None:
        self.vae_tiling = None

    def check_inputs(
        self,
        video: Video | None,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        height: int | None,
        width: int | None,
        num_frames: int | None,
        num_inference_steps: int,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        guidance_scale: float,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
        source_latents: torch.Tensor | None = None,
        flow_shift: float = 1.0,
    ) -> None:
        """Raises ValueError, saying what would do, for inputs that do not fit the model or each other."""
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("give either `prompt` or `prompt_embeds`")
        if video is not None and source_latents is not None:
            raise ValueError("give the source as `video` or as `source_latents`, not both")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("give `negative_prompt` or `negative_prompt_embeds`, not both")
        if prompt is not None and not prompt:
            raise ValueError("the prompt is empty: say what to change, for example 'make it black and white'")
        for text in [prompt] if isinstance(prompt, str) else prompt or []:
            if not text.strip():
                raise ValueError("the prompt is empty: say what to change, for example 'make it black and white'")
        encodes_text = prompt is not None or (guidance_scale > 1 and negative_prompt_embeds is None)
        if encodes_text and (self.text_encoder is None or self.tokenizer is None):
            raise ValueError("this pipeline has no text encoder: pass `prompt_embeds` and `negative_prompt_embeds`")
        if video is None and (height is None or width is None):
            raise ValueError("without a source video, give `height` and `width`")
        for name, length in (("height", height), ("width", width)):
            if length is not None and (length <= 0 or length % self.pixel_multiple):
                better = nearest_multiple(length, self.pixel_multiple)
                raise ValueError(f"{name} must divide by {self.pixel_multiple}, got {length}; use {better}")
        if num_frames is not None and not is_valid_num_frames(num_frames):
            lower, upper = neighbouring_num_frames(num_frames)
            raise ValueError(f"num_frames must be 4k+1, got {num_frames}; use {lower} or {upper}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale must be a number, got {guidance_scale}; 1 is no guidance")
        if not 0 < flow_shift < math.inf:
            raise ValueError(f"flow_shift must be above 0, got {flow_shift}; 1 is no shift")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be 'pil', 'np', 'pt' or 'latent', got {output_type!r}")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callbacks can see {self._callback_tensor_inputs}, not {sorted(unknown)}")

    def _encode_text(self, prompts: list[str], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        cleaned = [clean_prompt(self.config.prompt_prefix + text) for text in prompts]
        tokens = self.tokenizer(
            cleaned,
            padding="max_length",
            max_length=self.config.max_sequence_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        hidden_states = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        # Rows beyond the text are zero and not masked: the transformer attends to all of them.
        return hidden_states.to(dtype) * tokens.attention_mask.unsqueeze(-1).to(dtype)

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text features `[B, L, D]` of prompts and, for guidance, negative prompts (empty text if None)."""
        device = device or self._execution_device
        dtype = self.transformer.dtype if dtype is None else dtype
        assert dtype is not None
        if prompt_embeds is None:
            assert prompt is not None
            prompt_embeds = self._encode_text([prompt] if isinstance(prompt, str) else prompt, device, dtype)
        prompt_embeds = prompt_embeds.to(device, dtype)
        if not do_classifier_free_guidance:
            return prompt_embeds, None
        batch_size = len(prompt_embeds)
        if negative_prompt_embeds is None:
            negative = negative_prompt or ""
            negative = [negative] * batch_size if isinstance(negative, str) else negative
            if len(negative) != batch_size:
                raise ValueError(f"{len(negative)} negative prompts for {batch_size} prompts")
            negative_prompt_embeds = self._encode_text(negative, device, dtype)
        return prompt_embeds, negative_prompt_embeds.to(device, dtype)

    def prepare_video(
        self, video: Video, height: int | None, width: int | None, num_frames: int | None
    ) -> torch.Tensor:
        """Frames -> float32 `[1, 3, F, H, W]` in [-1, 1]: the first `num_frames`, resized, the last repeated to 4k+1.

        Args:
            video: PIL images; an array `[F, H, W, 3]`, uint8 or float in 0..1; or a tensor `[F, 3, H, W]`, likewise.
            height, width: None keeps the frames' own size.

        Raises:
            ValueError: for another layout or value range, or a kept size that the model cannot take.
        """
        if not isinstance(video, np.ndarray | torch.Tensor):
            video = _stack_pictures(video)
        if isinstance(video, np.ndarray):
            video = torch.from_numpy(np.ascontiguousarray(video)).movedim(-1, 1)
        if video.ndim != 4 or video.shape[1] != 3 or len(video) == 0:
            raise ValueError(f"a video is frames [F, 3, H, W] (arrays: [F, H, W, 3]), got {tuple(video.shape)}")
        video = video[:num_frames]
        if video.dtype == torch.uint8:
            video = video.float() * (2 / 255) - 1
        else:
            if not (video.min() >= 0 and video.max() <= 1):  # so that NaN is refused, too
                raise ValueError("float frames must lie in 0..1")
            video = video.float() * 2 - 1
        size = (height or video.shape[-2], width or video.shape[-1])
        if size != tuple(video.shape[-2:]):
            video = F.interpolate(video, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        if size[0] % self.pixel_multiple or size[1] % self.pixel_multiple:
            fitting = [nearest_multiple(length, self.pixel_multiple) for length in size]
            raise ValueError(
                f"the video's sides {size[0]}x{size[1]} must divide by {self.pixel_multiple}: "
                f"pass height={fitting[0]}, width={fitting[1]} to have it resized"
            )
        _, padded = neighbouring_num_frames(len(video))
        video = torch.cat([video, video[-1:].expand(padded - len(video), -1, -1, -1)])
        return rearrange(video, "f c h w -> 1 c f h w")

    def prepare_latents(
        self,
        batch_size: int,
        shape: LatentShape,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        semantic_latents: torch.Tensor | None = None,
        device: torch.device | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Noise of both streams in float32, the latents' drawn first: `[B, Z, f, h, w]` and `[B, S, D]` or None."""
        device = device or self._execution_device
        latent_shape = (batch_size, self.transformer.config.in_channels, shape.frames, shape.height, shape.width)
        num_tokens = semantic_tokens(self.config.num_semantic_tokens, shape.frames)  # one latent frame is a picture
        semantic_shape = (batch_size, num_tokens, self.transformer.config.semantic_dim)
        if latents is None:
            latents = randn_tensor(latent_shape, generator=generator, device=device, dtype=torch.float32)
        elif tuple(latents.shape) != latent_shape:
            raise ValueError(f"latents must be {latent_shape}, got {tuple(latents.shape)}")
        if semantic_latents is None and num_tokens:
            semantic_latents = randn_tensor(semantic_shape, generator=generator, device=device, dtype=torch.float32)
        if semantic_latents is not None:
            semantic_latents = semantic_latents.to(device, torch.float32)
        return latents.to(device, torch.float32), semantic_latents

    def set_timesteps(self, num_inference_steps: int, flow_shift: float, device: torch.device) -> torch.Tensor:
        """The release's sigmas for flow-match Euler; other schedulers make their own with the same shift.

        Raises:
            ValueError: for a scheduler that does not follow this flow: those that do are flow-match Euler and Heun,
                and diffusers' multistep solvers (UniPC, DPM-Solver, DEIS, SA) with `use_flow_sigmas=True` and
                `prediction_type="flow_prediction"`.
        """
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            self.scheduler.set_shift(flow_shift)
            sigmas = np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1]
            self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=device)
        elif isinstance(self.scheduler, FlowMatchHeunDiscreteScheduler):
            # Its smallest sigma, shifted when it was made, is shifted again with the others: make it anew, unshifted.
            self.register_modules(
                scheduler=FlowMatchHeunDiscreteScheduler.from_config(self.scheduler.config, shift=1.0)
            )
            self.scheduler.register_to_config(shift=flow_shift)
            self.scheduler.set_timesteps(num_inference_steps, device=device)
        elif self.scheduler.config.get("use_flow_sigmas") and self.scheduler.config.get("prediction_type") == FLOW:
            self.scheduler.register_to_config(flow_shift=flow_shift)
            self.scheduler.set_timesteps(num_inference_steps, device=device)
        else:
            raise ValueError(
                f"{type(self.scheduler).__name__} as it is set does not follow this model's flow: use flow-match Euler "
                f"or Heun, or UniPC, DPM-Solver, DEIS or SA with use_flow_sigmas=True and prediction_type='{FLOW}'"
            )
        return torch.as_tensor(self.scheduler.timesteps)

    def _batches_guidance(self, num_tokens: int, device: torch.device) -> bool:
        """Whether both guidance branches go through the transformer at once.

        Decided by the device's whole memory, not by what is free now, so that a seed gives the same bytes each time.
        """
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
        else:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        config = self.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        # A block holds about eight activations of the width and one of the feed-forward's, some of them in float32.
        activations = 2 * num_tokens * (8 * width + config.ffn_dim) * 4
        return activations < BATCHED_GUIDANCE_SHARE * memory

    def _predict(
        self,
        latents: torch.Tensor,
        semantic_latents: torch.Tensor | None,
        timestep: torch.Tensor,
        source_latents: torch.Tensor | None,
        prompt_embeds: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        dtype = self.transformer.dtype
        return self.transformer(
            latents.to(dtype),
            # The release casts the timestep to the model's dtype (in bfloat16 this rounding dominates its error).
            timestep=timestep.to(dtype).expand(len(latents)),
            encoder_hidden_states=prompt_embeds,
            source_hidden_states=None if source_latents is None else source_latents.to(dtype),
            semantic_hidden_states=None if semantic_latents is None else semantic_latents.to(dtype),
            return_dict=False,
        )

    def _predict_with_guidance(
        self,
        latents: torch.Tensor,
        semantic_latents: torch.Tensor | None,
        timestep: torch.Tensor,
        source_latents: torch.Tensor | None,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None,
        guidance_scale: float,
        batched: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Guidance on the text alone, for both streams: the negative branch keeps source and semantic tokens."""
        if negative_prompt_embeds is None:
            return self._predict(latents, semantic_latents, timestep, source_latents, prompt_embeds)

        def guided(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
            return negative + guidance_scale * (positive - negative)

        def twice(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else torch.cat([x, x])

        if batched:
            both = torch.cat([prompt_embeds, negative_prompt_embeds])
            velocity, semantic = self._predict(
                torch.cat([latents, latents]), twice(semantic_latents), timestep, twice(source_latents), both
            )
            return guided(*velocity.chunk(2)), None if semantic is None else guided(*semantic.chunk(2))
        positive, semantic = self._predict(latents, semantic_latents, timestep, source_latents, prompt_embeds)
        negative, semantic_negative = self._predict(
            latents, semantic_latents, timestep, source_latents, negative_prompt_embeds
        )
        if semantic is None or semantic_negative is None:
            return guided(positive, negative), None
        return guided(positive, negative), guided(semantic, semantic_negative)

    def _semantic_velocity(
        self, predicted: torch.Tensor | None, semantic_latents: torch.Tensor | None, sigma: torch.Tensor
    ) -> torch.Tensor | None:
        """The semantic head's prediction as a velocity: `noise - s = (s_sigma - s) / sigma` where it predicts `s`."""
        if predicted is None or semantic_latents is None or self.transformer.config.semantic_prediction == "velocity":
            return predicted
        return (semantic_latents - predicted.float()) / sigma

    def _step(
        self,
        velocity: torch.Tensor,
        semantic_velocity: torch.Tensor | None,
        timestep: torch.Tensor,
        latents: torch.Tensor,
        semantic_latents: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One scheduler step of both streams: they are laid side by side, since a scheduler counts its steps."""
        if semantic_latents is None or semantic_velocity is None:
            return self.scheduler.step(velocity.float(), timestep, latents, return_dict=False)[0], None
        flat_velocity = torch.cat([velocity.float().flatten(1), semantic_velocity.float().flatten(1)], dim=1)
        flat = torch.cat([latents.flatten(1), semantic_latents.flatten(1)], dim=1)
        flat = self.scheduler.step(flat_velocity, timestep, flat, return_dict=False)[0]
        video, semantic = flat.split([latents[0].numel(), semantic_latents[0].numel()], dim=1)
        return video.view_as(latents), semantic.view_as(semantic_latents)

    @staticmethod
    def _to_output(video: torch.Tensor, output_type: str) -> Any:
        """`[B, 3, F, H, W]` in [-1, 1] -> frames as PIL lists, array or tensor, rounded to the nearest level."""
        video = rearrange(video.float() / 2 + 0.5, "b c f h w -> b f c h w").clamp(0, 1)
        if output_type == "pt":
            return video
        array = rearrange(video, "b f c h w -> b f h w c").cpu().numpy()
        if output_type == "np":
            return array
        return [[PIL.Image.fromarray(frame) for frame in (clip * 255).round().astype(np.uint8)] for clip in array]

    @torch.no_grad()
    def __call__(
        self,
        video: Video | None = None,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        flow_shift: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        semantic_latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        source_latents: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 (diffusers' signature)
    ) -> SamaPipelineOutput | tuple:
        """Edit a video.

        Args:
            video: the source, see `prepare_video`; None makes a video from text alone.
            prompt: the instruction, or one per edit of the same video.
            negative_prompt: what guidance leads away from; the empty text if None.
            height, width: pixels; the video's own when None.
            num_frames: 4k+1; edits the first frames only. None edits all: frames added to reach 4k+1 are taken off
                again. Without a video, the model's native number.
            num_inference_steps, guidance_scale, flow_shift: None for the model's own (released weights: 50, 5.0, 5.0).
                No guidance at 1 or below.
            generator: seeds both streams.
            latents, semantic_latents: starting noise `[B, Z, f, h, w]` and `[B, S, D]` instead of drawn noise.
            prompt_embeds, negative_prompt_embeds: `[B, L, D]` instead of text.
            source_latents: `[1, Z, f', h, w]` normalised, instead of `video`. The result's size and length are then
                those of `height`, `width` and `num_frames`; its length may be another than the source's.
            output_type: "np", "pt", "pil" or "latent".
            return_dict: False returns `(frames,)`.
            callback_on_step_end: called as `(pipeline, step, timestep, tensors)`, may return replaced tensors.

        Raises:
            ValueError: for inputs that do not fit the model or each other.
        """
        steps = num_inference_steps if num_inference_steps is not None else self.config.default_num_inference_steps
        guidance = guidance_scale if guidance_scale is not None else self.config.default_guidance_scale
        shift = flow_shift if flow_shift is not None else self.config.default_flow_shift

        # 1. Check
        self.check_inputs(
            video, prompt, negative_prompt, height, width, num_frames, steps,
            prompt_embeds, negative_prompt_embeds, guidance, output_type, callback_on_step_end_tensor_inputs,
            source_latents, shift,
        )  # fmt: skip
        device = self._execution_device

        # 2. Text
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt, negative_prompt, guidance > 1, prompt_embeds, negative_prompt_embeds, device
        )
        batch_size = len(prompt_embeds)

        # 3. Source
        wanted_frames = num_frames or self.config.native_num_frames
        if video is not None:
            pixels = self.prepare_video(video, height, width, num_frames).to(device)
            wanted_frames = min(len(video), num_frames or len(video))
            source_latents = encode_video(self.vae, pixels, self.vae_tiling).float()
            height, width = pixels.shape[-2:]
        if source_latents is not None:
            source_latents = source_latents.to(device).expand(batch_size, -1, -1, -1, -1)
        _, padded_frames = neighbouring_num_frames(wanted_frames)
        assert height is not None
        assert width is not None
        shape = LatentShape.from_video(
            VideoShape(num_frames=padded_frames, height=height, width=width), self.vae.config.scale_factor_spatial
        )

        # 4. Noise of both streams, and the schedule
        latents, semantic_latents = self.prepare_latents(
            batch_size, shape, generator, latents, semantic_latents, device
        )
        timesteps = self.set_timesteps(steps, shift, device)
        num_tokens = batch_size * 2 * shape.num_tokens(self.transformer.config.patch_size)
        batched = self._batches_guidance(num_tokens, device)

        # 5. Denoise
        with self.progress_bar(total=len(timesteps)) as progress_bar:  # pyright: ignore[reportCallIssue] (untyped)
            for index, timestep in enumerate(timesteps):
                velocity, predicted = self._predict_with_guidance(
                    latents, semantic_latents, timestep, source_latents,
                    prompt_embeds, negative_prompt_embeds, guidance, batched,
                )  # fmt: skip
                semantic_velocity = self._semantic_velocity(predicted, semantic_latents, self.scheduler.sigmas[index])
                latents, semantic_latents = self._step(velocity, semantic_velocity, timestep, latents, semantic_latents)
                if callback_on_step_end is not None:
                    known: dict[str, Any] = {
                        "latents": latents,
                        "semantic_latents": semantic_latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    tensors = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                    changed: dict[str, Any] = callback_on_step_end(self, index, timestep, tensors) or {}
                    latents = changed.get("latents", latents)
                    semantic_latents = changed.get("semantic_latents", semantic_latents)
                    prompt_embeds = changed.get("prompt_embeds", prompt_embeds)
                    negative_prompt_embeds = changed.get("negative_prompt_embeds", negative_prompt_embeds)
                    assert latents is not None
                    assert prompt_embeds is not None
                progress_bar.update()

        # 6. Decode, without the frames that were added to reach 4k+1
        if output_type == "latent":
            frames = latents
        else:
            frames = self._to_output(
                decode_latents(self.vae, latents, self.vae_tiling)[:, :, :wanted_frames], output_type
            )
        self.maybe_free_model_hooks()
        if not return_dict:
            return (frames,)
        return SamaPipelineOutput(frames=frames, semantic_latents=semantic_latents)
