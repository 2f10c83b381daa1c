"""Instruction-guided video editing: noise, encode, denoise two streams with one scheduler, decode.

Shape legend: B batch, F frames, H W pixels, Z latent channels, f h w latent grid, L text tokens, S semantic tokens.
The time convention is that of `models/transformer_sama.py`.
"""

import html
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, get_type_hints

import diffusers
import ftfy
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from ..models.autoencoder_sama_nano import AutoencoderSamaNano
from ..models.hub import fetch_model
from ..models.latents import KnownLatents, Tiling, decode_latents, encode_video
from ..models.peak_memory import batches_guidance
from ..models.presets import PipelineSettings
from ..models.shapes import (
    RELEASE_TILE,
    TEMPORAL_FACTOR,
    WAN_SPATIAL_FACTOR,
    LatentShape,
    VideoShape,
    frames_of_latents,
    neighbouring_num_frames,
    semantic_tokens,
)
from ..models.source_memory import SourceMemories, SourceMemory
from ..models.streams import velocity_of_tokens
from ..models.strict_loading import no_empty_warnings
from ..models.transformer_sama import SamaTransformer3DModel
from ..system.devices import device_memory
from .arguments import (
    as_called_back,
    check_batch,
    check_numbers,
    check_parts,
    check_shortcuts,
    check_sizes,
    check_tensors,
    check_text,
    require_finite,
    scale_of,
)
from .configuration import without_code
from .exclusive import one_call_at_a_time
from .lora_files import SamaLoraLoaderMixin
from .pipeline_output import SamaPipelineOutput
from .portable_code import add_code
from .schedule import scheduled, shift_of, takes_generator
from .selection import Loading, ModelInfo
from .tensors import Video, to_output, video_to_tensor

Callback = Callable[..., dict[str, Any] | None]
Init = TypeVar("Init", bound=Callable[..., None])


def clean_prompt(text: str) -> str:
    """Broken Unicode and HTML entities mended, white space folded, as Wan's release does before tokenizing."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _takes_settings(init: Init) -> Init:
    """Gives a pipeline's `__init__` the fields of `PipelineSettings` in the place of its last argument.

    diffusers reads from the signature what `from_pretrained` may take from `model_index.json`.
    """
    own, defaults, hints = signature(init), vars(PipelineSettings()), get_type_hints(PipelineSettings)
    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items()]
    own = own.replace(parameters=[*list(own.parameters.values())[:-1], *added])
    vars(init)["__signature__"] = own
    init.__annotations__ |= {name: hints[name] for name in defaults}
    return init


class SamaPipeline(DiffusionPipeline, SamaLoraLoaderMixin):
    """Edits a video by an instruction (paper section 3).

    Calls from several threads queue: one at a time runs on a pipeline and on its parts (`exclusive.py`).

    Args:
        transformer: the denoiser; None for a pipeline that only encodes prompts.
        vae: any autoencoder with `AutoencoderKLWan`'s interface; None if every call brings and takes latents.
        text_encoder, tokenizer: None if every call brings `prompt_embeds`.
        scheduler: None for the release's sampler (flow-match Euler); `set_timesteps` says which others work.
        settings: see `PipelineSettings`, whose fields are arguments of their own in the signature.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    # Components with a default value must stand here, or `save_pretrained` takes them for settings.
    _optional_components: ClassVar[list[str]] = ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"]
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "semantic_latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "source_latents",
        "predicted_latents",
    ]
    # Of the call that runs, or the last one; diffusers' callbacks read and set them.
    _guidance_scale: float | None = None
    _attention_kwargs: dict[str, Any] | None = None
    _num_timesteps: int = 0
    _current_timestep: torch.Tensor | None = None
    _interrupt: bool = False
    _memories: SourceMemories = SourceMemories()
    _guided_steps: range = range(0)
    _place: Mapping[str, Any] = MappingProxyType({})  # of the step, as step caches want it

    @_takes_settings
    def __init__(
        self,
        transformer: SamaTransformer3DModel | None,
        vae: AutoencoderKLWan | AutoencoderSamaNano | None,
        text_encoder: UMT5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        scheduler: FlowMatchEulerDiscreteScheduler | None = None,
        **settings: Any,
    ):
        super().__init__()
        values = vars(PipelineSettings(**settings))
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=values["default_flow_shift"]),
        )
        self.register_to_config(**values | {"trained_for": dict(values["trained_for"] or {})})
        self.vae_tiling: Tiling | None = None
        self.loaded_as: Loading | None = None  # set by `load_pipeline`, for the records of results
        self.forget_adapters()

    @property
    def model_info(self) -> ModelInfo:
        vae = {"scale_factor_spatial": self.vae_scale_factor_spatial}
        info = ModelInfo.from_configs(self.config, vae, self.transformer.config)
        return replace(info, trained_for={}) if self._adapters() else info  # a LoRA teaches something else

    @property
    def vae_scale_factor_spatial(self) -> int:
        # Without its VAE a pipeline works on latents.
        return WAN_SPATIAL_FACTOR if self.vae is None else self.vae.config.scale_factor_spatial

    @property
    def vae_scale_factor_temporal(self) -> int:
        return TEMPORAL_FACTOR

    @property
    def guidance_scale(self) -> float | None:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale is not None and self._guidance_scale > 1

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        return self._attention_kwargs

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """None while no call runs."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the call that runs leaves out its remaining steps, after `pipe._interrupt = True`."""
        return self._interrupt

    @property
    def pixel_multiple(self) -> int:
        """What height and width must divide by."""
        return self.model_info.pixel_multiple

    def to(self, *args: Any, **kwargs: Any) -> "SamaPipeline":
        """As diffusers', which warns of parts that it need not warn of."""
        with no_empty_warnings():
            return super().to(*args, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs: Any) -> str:
        """The folder of a hub id in the hub's cache, with the pipeline's files alone; see `fetch_model`.

        Args:
            kwargs: `revision`, `token`, `cache_dir`, `force_download` and `local_files_only` count.

        Raises:
            UserError: if it could not be fetched.
        """
        names = ("revision", "token", "cache_dir", "force_download", "local_files_only")
        options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        return str(fetch_model(str(pretrained_model_name), **options))

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers', with this package's classes in the place of those that a folder brings: no code of it runs."""
        loaded = super().load_config(*args, **kwargs)
        return (without_code(loaded[0]), *loaded[1:]) if isinstance(loaded, tuple) else without_code(loaded)

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """As diffusers', and beside it the code that loads the folder where this package is not installed."""
        super().to_json_file(json_file_path)
        add_code(Path(json_file_path))

    def enable_vae_tiling(
        self, tile_size: tuple[int, int] = RELEASE_TILE, tile_stride: tuple[int, int] = (15, 26)
    ) -> None:
        """Encode the source and decode the result in tiles as the release does (latent units, see `Tiling`)."""
        self.vae_tiling = Tiling(size=(tile_size[0], tile_size[1]), stride=(tile_stride[0], tile_stride[1]))

    def disable_vae_tiling(self) -> None:
        self.vae_tiling = None

    def check_inputs(
        self,
        *,
        video: Video | None,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        height: int | None,
        width: int | None,
        num_frames: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        flow_shift: float,
        num_videos_per_prompt: int,
        max_sequence_length: int,
        tensors: dict[str, torch.Tensor | None],
        output_type: str,
        callback_inputs: list[str],
        guidance_start: float,
        guidance_end: float,
        source_refresh: int,
    ) -> None:
        """Raises ValueError, saying what would do, for inputs that do not fit the model or each other.

        Args:
            tensors: `latents`, `semantic_latents`, `source_latents`, `prompt_embeds`, `negative_prompt_embeds`.

        The others are the call's, with their defaults filled in.
        """
        check_text(prompt, negative_prompt, tensors["prompt_embeds"], tensors["negative_prompt_embeds"])
        encodes_text = prompt is not None or (guidance_scale > 1 and tensors["negative_prompt_embeds"] is None)
        check_parts(self, encodes_text, needs_vae=video is not None or output_type != "latent")
        if video is not None and tensors["source_latents"] is not None:
            raise ValueError("give the source as `video` or as `source_latents`, not both")
        if video is None and (height is None or width is None):
            raise ValueError("without a source video, give `height` and `width`")
        check_sizes(height, width, num_frames, self.pixel_multiple)
        check_numbers(
            num_inference_steps, guidance_scale, flow_shift, num_videos_per_prompt, max_sequence_length, output_type
        )
        check_tensors(tensors, self.transformer.config.text_dim)
        check_shortcuts(guidance_start, guidance_end, source_refresh, self.transformer)
        if unknown := set(callback_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callbacks can see {self._callback_tensor_inputs}, not {sorted(unknown)}")

    def _encode_text(
        self, prompts: list[str], max_sequence_length: int, device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        cleaned = [clean_prompt(self.config.prompt_prefix + text) for text in prompts]
        tokens = self.tokenizer(
            cleaned,
            padding="max_length",
            max_length=max_sequence_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(get_module_execution_device(self.text_encoder))
        hidden_states = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        # Rows beyond the text are zero and not masked: the transformer attends to all of them.
        embeds = hidden_states.to(dtype) * tokens.attention_mask.unsqueeze(-1).to(dtype)
        require_finite(embeds, "the text encoder", self.text_encoder.dtype, dtype)
        return embeds.to(device)

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        max_sequence_length: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text features of prompts and, for guidance, of negative prompts.

        Args:
            prompt, negative_prompt: one, or one per edit; the empty text if there is no negative prompt.
            num_videos_per_prompt: repeats each row.
            prompt_embeds, negative_prompt_embeds: `[B, L, D]` instead of text; `[1, L, D]` serves all edits as the
                negative prompt.
            max_sequence_length: L; None for the model's own, which it was trained with.
            dtype: None for the transformer's or, in a pipeline without one, the text encoder's.

        Returns:
            `[B * num_videos_per_prompt, L, D]`, and the same or None.

        Raises:
            ValueError: for another number of negative prompts than of prompts.
            UserError: if the text encoder gives values that are not finite.
        """
        device = device or self._execution_device
        dtype = dtype or (self.text_encoder if self.transformer is None else self.transformer).dtype
        assert dtype is not None
        length = max_sequence_length or self.config.max_sequence_length
        if prompt_embeds is None:
            assert prompt is not None
            prompt_embeds = self._encode_text([prompt] if isinstance(prompt, str) else prompt, length, device, dtype)
        prompt_embeds = prompt_embeds.to(device, dtype)
        repeated = prompt_embeds.repeat_interleave(num_videos_per_prompt, dim=0)
        if not do_classifier_free_guidance:
            return repeated, None
        batch_size = len(prompt_embeds)
        if negative_prompt_embeds is None:
            negative = negative_prompt or ""
            negative = [negative] * batch_size if isinstance(negative, str) else negative
            if len(negative) != batch_size:
                raise ValueError(f"{len(negative)} negative prompts for {batch_size} prompts")
            negative_prompt_embeds = self._encode_text(negative, length, device, dtype)
        elif len(negative_prompt_embeds) == 1:
            negative_prompt_embeds = negative_prompt_embeds.expand(batch_size, -1, -1)
        elif len(negative_prompt_embeds) != batch_size:
            raise ValueError(f"{len(negative_prompt_embeds)} negative prompts for {batch_size} prompts")
        return repeated, negative_prompt_embeds.to(device, dtype).repeat_interleave(num_videos_per_prompt, dim=0)

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
        return video_to_tensor(video, height, width, num_frames, self.pixel_multiple)

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
        config = self.transformer.config
        latent_shape = (batch_size, config.in_channels, shape.frames, shape.height, shape.width)
        num_frames = frames_of_latents(shape.frames)
        num_tokens = semantic_tokens(self.config.num_semantic_tokens, num_frames, config.semantic_grid)
        semantic_shape = (batch_size, num_tokens, config.semantic_dim)
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
        """Put a copy of the scheduler in its place that is set for these steps; a call does so for its own length.

        Raises:
            ValueError: for a scheduler that does not follow this model's flow, see `schedule.scheduled`.
        """
        self.scheduler = scheduled(self.scheduler, num_inference_steps, flow_shift, device)
        return torch.as_tensor(self.scheduler.timesteps)

    def _batches_guidance(self, num_tokens: int, device: torch.device) -> bool:
        """Whether both guidance branches go through the transformer at once; step caches want them apart."""
        if self.transformer.is_cache_enabled:
            return False
        return batches_guidance(self.transformer.config, num_tokens, device_memory(device))

    def _predict(
        self,
        latents: torch.Tensor,
        semantic_latents: torch.Tensor | None,
        timestep: torch.Tensor,
        source_latents: torch.Tensor | None,
        prompt_embeds: torch.Tensor,
        branch: str,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One forward pass; `branch` tells step caches and memories of the source whose it is."""
        dtype = self.transformer.dtype
        others = {name: value for name, value in (self._attention_kwargs or {}).items() if name != "scale"}
        with self.transformer.cache_context(branch, **self._place):
            return self.transformer(
                latents.to(dtype),
                timestep=self._timestep_of_model(timestep).expand(len(latents)),
                encoder_hidden_states=prompt_embeds,
                source_hidden_states=None if source_latents is None else source_latents.to(dtype),
                semantic_hidden_states=None if semantic_latents is None else semantic_latents.to(dtype),
                attention_kwargs=others,  # the scale is `_scaled_lora`'s
                return_dict=False,
                source_memory=self._memories.of(branch),
            )

    def _timestep_of_model(self, timestep: torch.Tensor) -> torch.Tensor:
        """The release casts it to the model's dtype (in bfloat16 this rounding dominates its error); a prediction
        around the source computes with it."""
        return timestep.to(
            self.transformer.dtype if self.transformer.config.prediction == "velocity" else torch.float32
        )

    def _predict_with_guidance(
        self,
        latents: torch.Tensor,
        semantic_latents: torch.Tensor | None,
        timestep: torch.Tensor,
        source_latents: torch.Tensor | None,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None,
        batched: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Guidance on the text alone, for both streams: the negative branch keeps source and semantic tokens.

        `negative + guidance_scale * (positive - negative)`
        """
        guidance_scale = self._guidance_scale
        if guidance_scale is None or guidance_scale <= 1 or self._place["step_index"] not in self._guided_steps:
            return self._predict(latents, semantic_latents, timestep, source_latents, prompt_embeds, "cond")
        if negative_prompt_embeds is None:
            raise ValueError("a callback turned guidance on, and there is no negative prompt: call with guidance first")

        def guided(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
            return negative + guidance_scale * (positive - negative)

        def twice(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else torch.cat([x, x])

        if batched and prompt_embeds.shape == negative_prompt_embeds.shape:
            both = torch.cat([prompt_embeds, negative_prompt_embeds])
            velocity, semantic = self._predict(
                torch.cat([latents, latents]), twice(semantic_latents), timestep, twice(source_latents), both, "both"
            )
            return guided(*velocity.chunk(2)), None if semantic is None else guided(*semantic.chunk(2))
        positive, semantic = self._predict(latents, semantic_latents, timestep, source_latents, prompt_embeds, "cond")
        negative, semantic_negative = self._predict(
            latents, semantic_latents, timestep, source_latents, negative_prompt_embeds, "uncond"
        )
        if semantic is None or semantic_negative is None:
            return guided(positive, negative), None
        return guided(positive, negative), guided(semantic, semantic_negative)

    def _source_memories(
        self, source_latents: torch.Tensor | None, latents: torch.Tensor, refresh: int
    ) -> SourceMemories:
        """For a sampling; `source_latents` of one, which serves all results, or of each."""
        if source_latents is None or self.transformer.config.source != "token":
            return SourceMemories()
        if self.transformer.config.source_attention == "full":
            return SourceMemories(refresh=refresh)
        shared, dtype = SourceMemory(), self.transformer.dtype
        with self.transformer.cache_context("source"):
            self.transformer.remember_source(source_latents.to(latents.device, dtype), latents.to(dtype), shared)
        return SourceMemories(shared=shared)

    def _known_latents(self, known_frames: Video | None, latents: torch.Tensor) -> KnownLatents | None:
        """Of `known_frames` beside the noise that the sampling starts from."""
        if known_frames is None:
            return None
        height, width = (side * self.vae_scale_factor_spatial for side in latents.shape[-2:])
        pixels = self.prepare_video(known_frames, height, width, None).to(latents.device)
        encoded = encode_video(self.vae, pixels, self.vae_tiling).float()
        if encoded.shape[2] >= latents.shape[2]:
            raise ValueError(f"known_frames must be fewer than the result's frames, got {len(known_frames)}")
        return KnownLatents(latents=encoded, noise=latents[:, :, : encoded.shape[2]].clone())

    @staticmethod
    def _step(
        scheduler: Any,
        velocity: torch.Tensor,
        semantic_velocity: torch.Tensor | None,
        timestep: torch.Tensor,
        latents: torch.Tensor,
        semantic_latents: torch.Tensor | None,
        noise: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One scheduler step of both streams: they are laid side by side, since a scheduler counts its steps."""
        if semantic_latents is None or semantic_velocity is None:
            return scheduler.step(velocity.float(), timestep, latents, return_dict=False, **noise)[0], None
        flat_velocity = torch.cat([velocity.float().flatten(1), semantic_velocity.float().flatten(1)], dim=1)
        flat = torch.cat([latents.flatten(1), semantic_latents.flatten(1)], dim=1)
        flat = scheduler.step(flat_velocity, timestep, flat, return_dict=False, **noise)[0]
        video, semantic = flat.split([latents[0].numel(), semantic_latents[0].numel()], dim=1)
        return video.view_as(latents), semantic.view_as(semantic_latents)

    @contextmanager
    def _running(
        self, scheduler: Any, guidance_scale: float, attention_kwargs: dict[str, Any] | None
    ) -> Iterator[None]:
        """What callbacks can see of a call, while it runs; afterwards the pipeline is as it was configured."""
        configured = self.scheduler
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs
        self._current_timestep, self._interrupt, self._num_timesteps = None, False, len(scheduler.timesteps)
        self.scheduler = scheduler
        try:
            with self._scaled_lora(scale_of(attention_kwargs)):
                yield
        finally:
            self._current_timestep = None
            self._memories, self._place = SourceMemories(), {}
            if self.scheduler is scheduler:  # else somebody chose another meanwhile
                self.scheduler = configured
            self.maybe_free_model_hooks()

    def _denoise(
        self,
        scheduler: Any,
        tensors: dict[str, Any],
        source_latents: torch.Tensor | None,
        known: KnownLatents | None,
        generator: torch.Generator | list[torch.Generator] | None,
        batched: bool,
        callback: Callback | None,
        callback_inputs: list[str],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From the noise in `tensors` (what callbacks see, by name) to both streams' results."""
        noise = {"generator": generator} if takes_generator(scheduler) else {}
        timesteps = torch.as_tensor(scheduler.timesteps)
        with self.progress_bar(total=len(timesteps)) as progress_bar:  # pyright: ignore[reportCallIssue] (untyped)
            for index, timestep in enumerate(timesteps):
                if self.interrupt:
                    break
                self._current_timestep = timestep
                self._memories.begin_step(index)
                sigma = float(scheduler.sigmas[index])
                self._place = {"step_index": index, "num_inference_steps": len(timesteps), "sigma": sigma}
                latents, semantic = tensors["latents"], tensors["semantic_latents"]
                velocity, predicted = self._predict_with_guidance(
                    latents, semantic, timestep, source_latents,
                    tensors["prompt_embeds"], tensors["negative_prompt_embeds"], batched,
                )  # fmt: skip
                require_finite(velocity, "the transformer", self.transformer.dtype)
                semantic_velocity = velocity_of_tokens(
                    self.transformer.config.semantic_prediction, predicted, semantic, scheduler.sigmas[index]
                )
                tensors["latents"], tensors["semantic_latents"] = self._step(
                    scheduler, velocity, semantic_velocity, timestep, latents, semantic, noise
                )
                if known is not None:
                    tensors["latents"] = known.put_into(tensors["latents"], scheduler.sigmas[index + 1])
                if callback is not None:
                    known_of_step = {"source_latents": source_latents}
                    if "predicted_latents" in callback_inputs:  # z_0 = z_sigma - sigma v
                        known_of_step["predicted_latents"] = latents - sigma * velocity
                    seen = {name: (tensors | known_of_step)[name] for name in callback_inputs}
                    changed = callback(self, index, timestep, seen) or {}
                    tensors |= as_called_back(tensors, changed)
                progress_bar.update()
        require_finite(tensors["latents"], "the sampler", self.transformer.dtype)
        return tensors["latents"], tensors["semantic_latents"]

    @one_call_at_a_time
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
        callback_on_step_end: Callback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = ["latents"],  # noqa: B006 (diffusers' signature)
        num_videos_per_prompt: int = 1,
        attention_kwargs: dict[str, Any] | None = None,
        max_sequence_length: int | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        source_refresh: int = 1,
        known_frames: Video | None = None,
    ) -> SamaPipelineOutput | tuple:
        """Edit a video.

        Args:
            video: the source, see `prepare_video`; None makes a video from text alone.
            prompt: the instruction, or one per edit of the same video.
            negative_prompt: what guidance leads away from; the empty text if None.
            height, width: pixels; the video's own when None.
            num_frames: 4k+1; edits the first frames only. None edits all: frames added to reach 4k+1 are taken off
                again. Without a video, the model's native number.
            num_inference_steps, guidance_scale: None for the model's own (released weights: 50, 5.0). No guidance at
                1 or below.
            flow_shift: None for the shift that was set on the scheduler or, where that is 1, the model's own (released
                weights: 5.0).
            generator: seeds both streams, and the steps of schedulers that draw noise; or one per result.
            latents, semantic_latents: starting noise `[B, Z, f, h, w]` and `[B, S, D]` instead of drawn noise.
            prompt_embeds, negative_prompt_embeds: `[B, L, D]` instead of text.
            source_latents: `[1, Z, f', h, w]` normalised, instead of `video`; or one per result. The result's size and
                length are then those of `height`, `width` and `num_frames`; its length may be another than the
                source's. A decoder that sees the source does without its pixels then.
            output_type: "np", "pt", "pil" or "latent".
            return_dict: False returns `(frames,)`.
            callback_on_step_end: called as `(pipeline, step, timestep, tensors)`, may return replaced tensors; also
                diffusers' `PipelineCallback`, which names its tensors itself. "source_latents" and "predicted_latents"
                (where the step is heading) it can see and not replace. It can stop the steps
                (`pipeline._interrupt = True`) and change guidance (`pipeline._guidance_scale = 1.0`), and sees the
                scheduler of this call as `pipeline.scheduler`.
            num_videos_per_prompt: results per prompt, of different noise.
            attention_kwargs: `{"scale": ...}` multiplies the scales of all loaded LoRAs.
            max_sequence_length: text tokens; None for the model's own, which it was trained with.
            guidance_start, guidance_end: the part of the steps that guidance works in, `0 <= start <= end <= 1`; in the
                others the prompt's branch is taken as it is, and the other one is not computed.
            source_refresh: compute the source's tokens in every so many steps only, and take their keys and values of
                the last such step in between: faster and approximate above 1. A model whose `source_attention` is
                "self" computes them once, exactly, whatever this is.
            known_frames: the result's first frames, 4k+1 of the result's size, where they are known already: the others
                are sampled to follow them. For several steps; one step cannot see them.

        Raises:
            ValueError: for inputs that do not fit the model or each other.
            UserError: if a part of the model gives values that are not finite.
            RuntimeError: if a callback calls the pipeline that calls it.
        """
        steps = num_inference_steps if num_inference_steps is not None else self.config.default_num_inference_steps
        guidance = guidance_scale if guidance_scale is not None else self.config.default_guidance_scale
        shift = flow_shift if flow_shift is not None else shift_of(self.scheduler, self.config.default_flow_shift)
        length = max_sequence_length if max_sequence_length is not None else self.config.max_sequence_length
        callback_inputs = callback_on_step_end_tensor_inputs or []
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_inputs = callback_on_step_end.tensor_inputs

        # 1. Check
        self.check_inputs(
            video=video,
            prompt=prompt,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            flow_shift=shift,
            num_videos_per_prompt=num_videos_per_prompt,
            max_sequence_length=length,
            tensors={
                "latents": latents,
                "semantic_latents": semantic_latents,
                "source_latents": source_latents,
                "prompt_embeds": prompt_embeds,
                "negative_prompt_embeds": negative_prompt_embeds,
            },
            output_type=output_type,
            callback_inputs=callback_inputs,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            source_refresh=source_refresh,
        )
        device = self._execution_device
        scheduler = scheduled(self.scheduler, steps, shift, device)

        with self._running(scheduler, guidance, attention_kwargs):
            # 2. Text
            prompt_embeds, negative_prompt_embeds = self.encode_prompt(
                prompt, negative_prompt, guidance > 1, num_videos_per_prompt,
                prompt_embeds, negative_prompt_embeds, length, device,
            )  # fmt: skip
            batch_size = len(prompt_embeds)
            check_batch(batch_size, generator, source_latents)

            # 3. Source
            wanted_frames, pixels = num_frames or self.config.native_num_frames, None
            if video is not None:
                pixels = self.prepare_video(video, height, width, num_frames).to(device)
                wanted_frames = min(len(video), num_frames or len(video))
                source_latents = encode_video(self.vae, pixels, self.vae_tiling).float()
                require_finite(source_latents, "the VAE", self.vae.dtype)
                height, width = pixels.shape[-2:]
            distinct_sources = source_latents
            if source_latents is not None:
                source_latents = source_latents.to(device).expand(batch_size, -1, -1, -1, -1)
            _, padded_frames = neighbouring_num_frames(wanted_frames)
            assert height is not None
            assert width is not None
            shape = LatentShape.from_video(
                VideoShape(num_frames=padded_frames, height=height, width=width),
                self.vae_scale_factor_spatial,
            )

            # 4. Noise of both streams
            latents, semantic_latents = self.prepare_latents(
                batch_size, shape, generator, latents, semantic_latents, device
            )

            known = self._known_latents(known_frames, latents)

            # 5. Denoise
            num_steps = len(scheduler.timesteps)
            self._guided_steps = range(round(guidance_start * num_steps), round(guidance_end * num_steps))
            self._memories = self._source_memories(distinct_sources, latents, source_refresh)
            num_tokens = batch_size * 2 * shape.num_tokens(self.transformer.config.patch_size)
            tensors = {
                "latents": latents,
                "semantic_latents": semantic_latents,
                "prompt_embeds": prompt_embeds,
                "negative_prompt_embeds": negative_prompt_embeds,
            }
            frames, semantic_latents = self._denoise(
                scheduler, tensors, source_latents, known, generator, self._batches_guidance(num_tokens, device),
                callback_on_step_end, callback_inputs,
            )  # fmt: skip

            # 6. Decode, without the frames that were added to reach 4k+1
            if output_type != "latent":
                decoded = decode_latents(self.vae, frames, self.vae_tiling, source=pixels)[:, :, :wanted_frames]
                require_finite(decoded, "the VAE", self.vae.dtype)
                frames = to_output(decoded, output_type)
        if not return_dict:
            return (frames,)
        return SamaPipelineOutput(frames=frames, semantic_latents=semantic_latents)


# `DiffusionPipeline.from_pretrained` looks up the class that an older folder names among diffusers' own.
vars(diffusers).setdefault("SamaPipeline", SamaPipeline)
