"""What a run trains: how source and semantic stream come into the model, adapters, and which weights move.

Every ablation of the paper is a value of the config: Semantic Anchoring (`model.semantic_encoder`), Motion Alignment
(`data.pretext`), type embeddings against shifted RoPE (`model.roles`, Table 6), the source by token or by channel
(`model.source`), the semantic head's target (`objective.semantic_target`), M and N (`objective.semantic_grid`,
`objective.num_anchors`).
"""

from ..models.semantic_encoder import SemanticEncoder, find_semantic_encoder
from ..models.shapes import tokens_per_anchor
from ..models.transformer_sama import SamaTransformer3DModel
from ..pipelines.pipeline_sama import SamaPipeline
from ..system.errors import UserError
from .adapters import add_lora, halve_frozen
from .config import ModelConfig, ObjectiveConfig


def prepare_transformer(
    pipe: SamaPipeline, model: ModelConfig, objective: ObjectiveConfig, *, precision: str = "float32"
) -> None:
    """Make a loaded pipeline's transformer the one that the run trains, and have the pipeline sample as it trains.

    Parts that the run's streams do not reach are frozen: they have no gradient, and a checkpoint no place for them.

    Args:
        precision: of the run's autocast, "bfloat16" or "float32".

    Raises:
        UserError: for a model that has learned other streams than the config asks for.
    """
    transformer = pipe.transformer
    _set_streams(transformer, model, objective)
    pipe.register_to_config(num_semantic_tokens=video_semantic_tokens(model, objective))
    if model.lora is None:
        transformer.requires_grad_(True)
    else:
        if model.train_text_encoder:
            raise UserError("a LoRA file has no place for a text encoder; set model.train_text_encoder=false")
        add_lora(transformer, model.lora)
        if precision == "bfloat16":
            halve_frozen(transformer)
    unreached = unreached_parts(model)
    for name, part in transformer.new_parts.items():
        part.requires_grad_(name not in unreached)


def video_semantic_tokens(model: ModelConfig, objective: ObjectiveConfig) -> int:
    """Of a video; `shapes.semantic_tokens` says what a picture has."""
    return 0 if model.semantic_encoder is None else objective.num_anchors * tokens_per_anchor(objective.semantic_grid)


def unreached_parts(model: ModelConfig) -> set[str]:
    """Which of the parts that stock Wan lacks the run's streams do not reach."""
    types = set() if model.roles == "type" else {"type_embedding"}
    return types if model.semantic_encoder is not None else types | {"semantic_projector", "semantic_head"}


def load_semantic_encoder(pipe: SamaPipeline, model: ModelConfig, objective: ObjectiveConfig) -> SemanticEncoder | None:
    """The run's SigLIP where the pipeline's autoencoder is, in its precision; None without Semantic Anchoring."""
    if model.semantic_encoder is None:
        return None
    folder = find_semantic_encoder(model.semantic_encoder)
    regions = objective.semantic_grid**2
    return SemanticEncoder.from_pretrained(folder, num_local_tokens=regions, dtype=pipe.vae.dtype).to(pipe.vae.device)


def check_semantic_width(pipe: SamaPipeline, encoder: SemanticEncoder, model: ModelConfig) -> None:
    """Raises UserError for a SigLIP model whose tokens are not as wide as the transformer's."""
    given, wanted = encoder.vision_model.config.hidden_size, pipe.transformer.config.semantic_dim
    if given != wanted:
        raise UserError(
            f"model.semantic_encoder={model.semantic_encoder} gives tokens of width {given}, and {model.init} takes "
            f"{wanted}; use the SigLIP model that it was made for (so400m: 1152, nano: 192)"
        )


def _set_streams(transformer: SamaTransformer3DModel, model: ModelConfig, objective: ObjectiveConfig) -> None:
    config = transformer.config
    edits_already = config.source == "channel" or config.roles == "shifted_rope"
    edits_already = edits_already or bool(transformer.type_embedding.weight.any())
    if edits_already and (config.roles, config.source) != (model.roles, model.source):
        raise UserError(
            f"{model.init} has learned to edit with model.roles={config.roles} and model.source={config.source}, which "
            f"cannot become {model.roles} and {model.source}; use its own, or start from a text-to-video model"
        )
    prediction, grid = config.semantic_prediction, config.semantic_grid
    if model.semantic_encoder is not None:
        if prediction != objective.semantic_target and transformer.semantic_head.proj.weight.any():
            raise UserError(
                f"the semantic head of {model.init} has learned objective.semantic_target={prediction}; use that, or "
                f"start from a model without a trained head"
            )
        prediction, grid = objective.semantic_target, objective.semantic_grid
    transformer.reconfigure(
        roles=model.roles,
        source=model.source,
        source_attention=model.source_attention,
        semantic_prediction=prediction,
        semantic_grid=grid,
    )
