"""The SAMA video diffusion transformer: Wan with a source stream, a semantic stream and type embeddings.

Shape legend: B batch, C latent channels, F H W latent grid, L text tokens, S semantic tokens, D width,
N tokens of the whole sequence `[source | semantic | target]` (paper section 3.1).

Time convention (stated here once for the whole project): sigma in [0, 1], `timestep = 1000 * sigma`,
`x_sigma = (1 - sigma) * x_0 + sigma * noise`, and the network predicts `noise - x_0`. The paper writes the same
flow with time reversed (its `t` is `1 - sigma`).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, ParallelConfig
from diffusers.configuration_utils import register_to_config

# `DiffusionPipeline.from_pretrained` looks for `ModelMixin` in the module that defines a model class, and
# `model_index.json` stores this module's path: both are frozen once weights are published.
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from diffusers.utils import BaseOutput, apply_lora_scale
from einops import rearrange
from torch import nn

from .context_parallel import Ulysses
from .joint_attention import Joined, JointAttnProcessor
from .official_names import NEW_PARTS
from .positions import POSITION_FREQUENCIES, absolute_positions, rotary_at, semantic_positions
from .prediction import AroundSource, GatedSource
from .shapes import SEMANTIC_GRID
from .source_memory import SourceMemory
from .streams import (
    SEMANTIC_TYPE,
    SOURCE_TYPE,
    TARGET_TYPE,
    Prediction,
    Roles,
    SemanticHead,
    SemanticProjector,
    Source,
    SourceAttention,
    check_streams,
    check_streams_config,
)


def _mean_of_text(text: torch.Tensor) -> torch.Tensor:
    """`[B, L, D]` -> `[B, D]` over the rows of a prompt; what pads it is zero."""
    return text.sum(dim=1) / text.any(dim=2).sum(dim=1, keepdim=True).clamp(min=1)


@dataclass
class SamaTransformerOutput(BaseOutput):
    """What the transformer predicts.

    Args:
        sample: `[B, C, F, H, W]`, the target latents' velocity `noise - x_0`.
        semantic: `[B, S, semantic_dim]`, what the semantic head predicts, see `semantic_prediction`; None without
            semantic tokens.
    """

    sample: torch.Tensor
    semantic: torch.Tensor | None = None


class SamaTransformer3DModel(WanTransformer3DModel):
    """Wan's transformer over `[source | semantic | target]` tokens (paper sections 3.1 and 3.2).

    The arguments up to `pos_embed_seq_len` are [`~diffusers.WanTransformer3DModel`]'s own. They are spelled out
    because `from_pretrained` reads them from this signature.

    Args:
        semantic_dim: width of a semantic token as the vision encoder gives it (SigLIP so400m: 1152).
        semantic_hidden_dim: width between the projector's two layers.
        semantic_rope: rotary factor of the semantic tokens. `"zero"` is what the released weights were trained
            with: their queries and keys vanish, so each attends to all tokens evenly and is seen with logit 0.
            `"identity"` leaves their queries and keys unrotated. `"grid"` gives each local token its region's place on
            the target's grid and its anchor's time, the global one the centre.
        semantic_grid: regions a side of an anchor frame's grid of local semantic tokens: M is its square, and there is
            one global token more (65 tokens for 8, as in the released weights). `semantic_rope="grid"` places them by
            it, and samplers draw as many.
        semantic_prediction: what the semantic head was trained to predict: `"velocity"`, `noise - s`, or `"clean"`,
            the tokens `s` themselves (Eq. 3). Samplers read it; the forward pass does not depend on it.
        roles: what tells source from target: `"type"` embeddings (section 3.1), or `"shifted_rope"`, the scheme that
            appendix A compares them with: no type embedding, and the source's time begins where the target's ends.
            The target keeps the positions that Wan gives it. The unused embedding stays among the weights.
        source: how the source comes in: as `"token"`s of the sequence, or by `"channel"`, beside the target's noisy
            latents before patch embedding; zeros without a source.
        source_attention: what tokens of the source see: `"full"`, everything, as the released weights do, or `"self"`,
            one another alone, without text and at timestep 0, so that a sampler computes them once, see
            `source_memory.py`.
        prediction: what the network gives: the `"velocity"` itself, as the released weights do, or what is left of it
            `"around_source"`, see `prediction.py`. The forward pass returns a velocity either way.
        residual_std, latents_std: for `"around_source"`, the spread per channel of target latents around their
            source's, and of latents that have no source on the same grid; None for 0.7 and 1.
        absolute_positions: tokens of source and target also carry where in the clip they are. Rotary factors tell
            distances alone, and only a large model learns from its borders where "top left" is; see
            docs/decisions/small-models.md.
        pooled_text: the mean of the text features joins the timestep, and so every block's modulation.
        gated_source: for `"around_source"`, the last layer weighs the source's own values too, see [`GatedSource`].
    """

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        semantic_dim: int = 1152,  # noqa: ARG002 (read from the config)
        semantic_hidden_dim: int = 1024,  # noqa: ARG002
        semantic_rope: Literal["zero", "identity", "grid"] = "zero",
        semantic_prediction: Prediction = "velocity",
        roles: Roles = "type",
        source: Source = "token",
        source_attention: SourceAttention = "full",
        prediction: Literal["velocity", "around_source"] = "velocity",
        residual_std: list[float] | None = None,
        latents_std: list[float] | None = None,
        semantic_grid: int = SEMANTIC_GRID,
        absolute_positions: bool = False,  # noqa: ARG002
        pooled_text: bool = False,  # noqa: ARG002
        gated_source: bool = False,
    ) -> None:
        check_streams_config(
            semantic_rope=semantic_rope,
            semantic_prediction=semantic_prediction,
            roles=roles,
            source=source,
            source_attention=source_attention,
            prediction=prediction,
            semantic_grid=semantic_grid,
        )
        for name, spread in (("residual_std", residual_std), ("latents_std", latents_std)):
            if spread is not None and (len(spread) != in_channels or min(spread) <= 0):
                raise ValueError(f"{name} must hold {in_channels} numbers above 0, one per channel, got {spread}")
        if gated_source and prediction != "around_source":
            raise ValueError('gated_source=True weighs the source for prediction="around_source"; set both or neither')
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        for block in cast("list[WanTransformerBlock]", [*self.blocks]):
            for attention in (block.attn1, block.attn2):
                attention.set_processor(JointAttnProcessor())  # pyright: ignore[reportArgumentType] (a list of names)
        self.reset_new_parts()

    ulysses: Ulysses | None = None

    def enable_parallelism(self, *, config: ParallelConfig | ContextParallelConfig, **_: Any) -> None:
        """As diffusers', for samplers: one sequence over all processes, each of which must run the same call.

        Args:
            config: with `ulysses_degree` the number of processes; `torch.distributed` is initialised already.

        Raises:
            ValueError: for another kind of parallelism or number of processes, or heads that do not divide by it.
        """
        context = config if isinstance(config, ContextParallelConfig) else config.context_parallel_config
        size = dist.get_world_size() if dist.is_initialized() else 1
        if context is None or (context.ring_degree, context.ulysses_degree) != (1, size):
            raise ValueError(f"give ContextParallelConfig(ulysses_degree={size}), the number of processes that run")
        if self.config.num_attention_heads % size:
            raise ValueError(
                f"{self.config.num_attention_heads} attention heads do not divide among {size} processes; "
                "start a number of processes that divides them"
            )
        self.ulysses = Ulysses()

    @property
    def new_parts(self) -> dict[str, nn.Module]:
        """What Wan does not have, by name."""
        return {name: getattr(self, name) for name in NEW_PARTS if getattr(self, name) is not None}

    @property
    def has_learned_to_edit(self) -> bool:
        """Whether anything tells the source from the target; without it the model is Wan, which follows the text alone.

        True where the weights are not there to be asked (sequential offloading).
        """
        if self.config.roles == "shifted_rope":
            return True
        part = self.type_embedding if self.source_embedding is None else self.source_embedding
        weight: Any = part.weight
        return weight.is_meta or bool(weight.any())

    def reset_new_parts(self, like: torch.Tensor | None = None) -> None:
        """Initialise again what Wan does not have, so that the model starts as Wan.

        Types, positions and pooled text say nothing yet, a source beside the target neither, and the semantic
        prediction is 0. Device and dtype are those of `like`.
        """
        config = self.config
        width = config.num_attention_heads * config.attention_head_dim
        self.type_embedding = nn.Embedding(3, width)
        self.semantic_projector = SemanticProjector(config.semantic_dim, config.semantic_hidden_dim, width)
        self.semantic_head = SemanticHead(width, config.semantic_dim, config.eps)
        self.source_embedding = self._new_source_embedding()
        self.position_embedding = self._new_linear(6 * POSITION_FREQUENCIES) if config.absolute_positions else None
        self.pooled_text_embedding = self._new_linear(config.text_dim) if config.pooled_text else None
        self.source_gate = self._new_source_gate() if config.gated_source else None
        nn.init.zeros_(self.type_embedding.weight)
        nn.init.zeros_(self.semantic_head.proj.weight)
        nn.init.zeros_(self.semantic_head.proj.bias)
        if like is not None:
            for part in self.new_parts.values():
                part.to(like.device, like.dtype).train(self.training)

    def _new_linear(self, num_features: int) -> nn.Linear:
        linear = nn.Linear(num_features, self.proj_out.in_features, bias=False)
        nn.init.zeros_(linear.weight)
        return linear

    def _new_source_embedding(self) -> nn.Module | None:
        if self.config.source == "token":
            return None
        # Source channels beside the target's and one convolution of both is a sum of two: this is the new one.
        patch = tuple(self.config.patch_size)
        embedding = nn.Conv3d(
            self.config.in_channels, self.patch_embedding.out_channels, patch, stride=patch, bias=False
        )
        nn.init.zeros_(embedding.weight)
        return embedding

    def _new_source_gate(self) -> GatedSource:
        gated = GatedSource(self.proj_out.out_features, self.proj_out.in_features)
        nn.init.zeros_(gated.write.weight)
        return gated

    def reconfigure(self, **changes: Any) -> None:
        """Change how the streams come in; weights stay, and a source embedding that was not there starts at zero.

        Args:
            changes: of `roles`, `source`, `source_attention`, `semantic_prediction` and `semantic_grid`.

        Raises:
            ValueError: for a value that there is not.
        """
        names = ("roles", "source", "source_attention", "semantic_prediction", "semantic_grid")
        check_streams_config(**{name: self.config[name] for name in names} | changes)
        changed = changes.get("source", self.config.source) != self.config.source
        self.register_to_config(**changes)
        if changed:
            self.source_embedding = self._new_source_embedding()
            if self.source_embedding is not None:
                self.source_embedding.to(self.proj_out.weight.device, self.proj_out.weight.dtype)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers', and the new parts are initialised where the folder is stock Wan's and lacks them.

        diffusers reports missing weights and leaves them without storage.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.type_embedding.weight.is_meta:
            model.reset_new_parts(like=model.proj_out.weight)
        return loaded

    def _embed_latents(self, latents: torch.Tensor, type_id: int, beside: torch.Tensor | None = None) -> torch.Tensor:
        patches = self.patch_embedding(latents)
        if self.source_embedding is not None:
            # Zeros embed to zero; they take part so that training sees the same parameters in every batch.
            patches = patches + self.source_embedding(torch.zeros_like(latents) if beside is None else beside)
        if self.position_embedding is not None:
            positions = absolute_positions(patches.shape[2:]).to(patches)
            patches = patches + rearrange(self.position_embedding(positions), "f h w d -> d f h w")
        return self._with_type(rearrange(patches, "b d f h w -> b (f h w) d"), type_id)

    def _with_type(self, tokens: torch.Tensor, type_id: int) -> torch.Tensor:
        if self.config.roles == "shifted_rope":
            return tokens
        # Through the module's forward, not its weight: offloading hooks bring weights in there.
        # In the tokens' precision: under autocast, float32 would spread through all blocks and double what they keep.
        return tokens + self.type_embedding(torch.tensor([type_id], device=tokens.device)).to(tokens.dtype)

    def _source_rotary(self, source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.roles == "type":
            return self.rope(source)
        # The rotary factors of a clip that continues after the target's end, without the part before it.
        frames, height, width = source.shape[2:]
        cos, sin = self.rope(source.new_empty(1, 1, target.shape[2] + frames, height, width))
        num_tokens = frames * height * width // math.prod(self.config.patch_size)
        return cos[:, -num_tokens:], sin[:, -num_tokens:]

    def _semantic_rotary(
        self, num_tokens: int, like: torch.Tensor, grid: torch.Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.semantic_rope == "grid":
            side, patch = self.config.semantic_grid, tuple(self.config.patch_size)
            positions = semantic_positions(num_tokens, side, grid, patch)
            return rotary_at(positions.to(like.device), (self.rope.t_dim, self.rope.h_dim, self.rope.w_dim), like.dtype)
        sin = like.new_zeros(1, num_tokens, 1, like.shape[-1])
        cos = torch.ones_like(sin) if self.config.semantic_rope == "identity" else sin
        return cos, sin

    def _around_source(
        self, hidden_states: torch.Tensor, source: torch.Tensor | None, timestep: torch.Tensor
    ) -> AroundSource | None:
        """What the velocity is predicted around; None where it is predicted itself."""
        config = self.config
        if config.prediction == "velocity":
            return None
        if timestep.ndim != 1:
            raise ValueError(f"prediction={config.prediction!r} takes one timestep per sample")
        on_its_grid = source is not None and source.shape == hidden_states.shape
        values = (config.residual_std or [0.7]) if on_its_grid else (config.latents_std or [1.0])
        return AroundSource(
            mean=source.float() if source is not None and on_its_grid else torch.zeros_like(hidden_states).float(),
            std=torch.tensor(values, device=hidden_states.device).view(1, -1, 1, 1, 1),
            sigma=timestep.float().view(-1, 1, 1, 1, 1) / 1000,
        )

    def _patches(self, latents: torch.Tensor) -> torch.Tensor:
        """`[B, C, F, H, W]` -> `[B, N, values of a patch]`."""
        pf, ph, pw = self.config.patch_size
        return rearrange(latents, "b c (f pf) (h ph) (w pw) -> b (f h w) (pf ph pw c)", pf=pf, ph=ph, pw=pw)

    def _unpatched(self, patches: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """`[B, N, values of a patch]` -> latents of a shape, the inverse of `_patches`."""
        pf, ph, pw = self.config.patch_size
        sizes = {"f": shape[2] // pf, "h": shape[3] // ph, "w": shape[4] // pw}
        return rearrange(patches, "b (f h w) (pf ph pw c) -> b c (f pf) (h ph) (w pw)", pf=pf, ph=ph, pw=pw, **sizes)

    def remember_source(
        self, source_hidden_states: torch.Tensor, hidden_states: torch.Tensor, memory: SourceMemory
    ) -> None:
        """Write what `source_attention="self"` needs of a source in every step; `hidden_states` for its grid alone."""
        tokens = self._embed_latents(source_hidden_states, SOURCE_TYPE)
        rotary = self._source_rotary(source_hidden_states, hidden_states)
        clean = torch.zeros(len(tokens), device=tokens.device)
        no_text = tokens.new_zeros(len(tokens), 1, self.config.text_dim)
        timestep_proj = self.condition_embedder(clean, no_text, None)[1].unflatten(-1, (6, -1))
        joined = Joined(*rotary, num_tokens=tokens.shape[1], memory=memory, num_written=tokens.shape[1])
        self._through_blocks(tokens, None, timestep_proj, joined)

    def _through_blocks(
        self, sequence: torch.Tensor, text: torch.Tensor | None, timestep_proj: torch.Tensor, joined: Joined
    ) -> torch.Tensor:
        ulysses = self.ulysses
        if ulysses is not None:
            if torch.is_grad_enabled():
                raise RuntimeError("a sequence over several processes has a forward pass only; use torch.no_grad()")
            sequence, cos, sin = (ulysses.part(x) for x in (sequence, joined.cos, joined.sin))
            joined = joined._replace(cos=cos, sin=sin, ulysses=ulysses)
            if timestep_proj.ndim == 4:  # one per token
                timestep_proj = ulysses.part(timestep_proj)
        is_plain = joined.memory is None and ulysses is None
        rotary = (joined.cos, joined.sin) if is_plain else joined
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                assert self._gradient_checkpointing_func is not None
                sequence = self._gradient_checkpointing_func(block, sequence, text, timestep_proj, rotary)
            else:
                sequence = block(sequence, text, timestep_proj, rotary)
        return sequence if ulysses is None else ulysses.whole(sequence, joined.num_tokens)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        source_hidden_states: torch.Tensor | None = None,
        semantic_hidden_states: torch.Tensor | None = None,
        encoder_hidden_states_image: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,  # noqa: ARG002 (read by the decorator: LoRA scale)
        source_memory: SourceMemory | None = None,
    ) -> SamaTransformerOutput | tuple[torch.Tensor, torch.Tensor | None]:
        """Predict the velocity of the noisy target latents and of the noisy semantic tokens.

        Args:
            hidden_states: `[B, C, F, H, W]` noisy target latents.
            timestep: `[B]`, 1000 * sigma; or `[B, N]`, one per token of the whole sequence (Wan2.2).
            encoder_hidden_states: `[B, L, text_dim]` text features.
            source_hidden_states: `[B, C, F', H', W']` clean source latents on a grid of their own (the target's, if
                the model takes the source by channel), or None (text-to-video).
            semantic_hidden_states: `[B, S, semantic_dim]` noisy semantic tokens, or None.
            encoder_hidden_states_image: Wan's image features for image-to-video variants.
            return_dict: False returns the tuple `(sample, semantic)`.
            attention_kwargs: `{"scale": ...}` scales low-rank layers; the pipeline's scales a LoRA's full parts, too.
            source_memory: keys and values of the source's tokens: an empty one is written by this pass, another is read
                in their place.

        Raises:
            ValueError: for streams whose shapes do not fit the model or each other.
        """
        check_streams(self.config, hidden_states, source_hidden_states, semantic_hidden_states)

        around = self._around_source(hidden_states, source_hidden_states, timestep)
        noisy = hidden_states if around is None else around.network_input(hidden_states).to(hidden_states.dtype)

        # 1. Three streams, each with its type embedding and rotary factors, in the order source, semantic, target
        tokens, rotary = [], []
        by_channel = self.config.source == "channel"
        memory, num_written = None, 0
        if source_hidden_states is not None and not by_channel:
            memory = source_memory
            if self.config.source_attention == "self":
                memory = memory if memory is not None else SourceMemory()
                if memory.is_empty:
                    self.remember_source(source_hidden_states, hidden_states, memory)
            if memory is None or memory.is_empty:
                tokens.append(self._embed_latents(source_hidden_states, SOURCE_TYPE))
                rotary.append(self._source_rotary(source_hidden_states, hidden_states))
                num_written = tokens[0].shape[1]
        target_rotary = self.rope(hidden_states)
        num_semantic = 0
        if semantic_hidden_states is not None:
            num_semantic = semantic_hidden_states.shape[1]
            tokens.append(self._with_type(self.semantic_projector(semantic_hidden_states), SEMANTIC_TYPE))
            rotary.append(self._semantic_rotary(num_semantic, target_rotary[0], hidden_states.shape[2:]))
        beside = source_hidden_states if by_channel else None
        tokens.append(self._embed_latents(noisy, TARGET_TYPE, beside))
        rotary.append(target_rotary)
        num_target = tokens[-1].shape[1]

        sequence = torch.cat(tokens, dim=1) if len(tokens) > 1 else tokens[0].contiguous()
        cos, sin = (torch.cat(factors, dim=1) for factors in zip(*rotary, strict=True))
        joined = Joined(cos, sin, num_tokens=sequence.shape[1], memory=memory, num_written=num_written)

        # 2. Conditions: one timestep drives all tokens, the clean source's too, unless one per token is given
        per_token = timestep.ndim == 2
        if per_token and memory is not None:
            raise ValueError(
                "a timestep per token needs the source's tokens in the sequence, and a memory leaves them out"
            )
        if per_token and timestep.shape[1] != sequence.shape[1]:
            raise ValueError(
                f"a timestep per token must cover [source | semantic | target]: expected "
                f"[{len(sequence)}, {sequence.shape[1]}], got {tuple(timestep.shape)}"
            )
        temb, timestep_proj, text, image = self.condition_embedder(
            timestep.flatten(),
            encoder_hidden_states,
            encoder_hidden_states_image,
            timestep_seq_len=timestep.shape[1] if per_token else None,
        )
        if self.pooled_text_embedding is not None:
            pooled = self.pooled_text_embedding(_mean_of_text(encoder_hidden_states))
            temb = temb + (pooled[:, None] if per_token else pooled)
            timestep_proj = self.condition_embedder.time_proj(self.condition_embedder.act_fn(temb))
        timestep_proj = timestep_proj.unflatten(-1, (6, -1))
        text = text if image is None else torch.cat([image, text], dim=1)

        # 3. Transformer blocks
        sequence = self._through_blocks(sequence, text, timestep_proj, joined)

        # 4. Heads: the semantic one reads the last block's raw output, the video one the modulated target tokens
        semantic = None
        if num_semantic:
            semantic = self.semantic_head(sequence[:, -num_target - num_semantic : -num_target])
        target = sequence[:, -num_target:]
        temb = temb[:, -num_target:] if per_token else temb.unsqueeze(1)
        shift, scale = (self.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).to(target.device).unbind(dim=2)
        target = (self.norm_out(target.float()) * (1 + scale) + shift).type_as(target)
        sample = self.proj_out(target)
        if around is not None and self.source_gate is not None:
            sample = sample + self.source_gate(self._patches(around.unit_mean).to(target.dtype), target)
        sample = self._unpatched(sample, hidden_states.shape)
        if around is not None:
            sample = around.velocity(sample.float(), hidden_states.float())
        if not return_dict:
            return sample, semantic
        return SamaTransformerOutput(sample=sample, semantic=semantic)
