"""Low-rank adapters through peft: added before training, written as one file after it.

The adapters' scale alpha / rank is folded into their second matrix, so that every loader, also one that reads no
header, gets the scale of the training. What a low-rank change cannot say (type embeddings, semantic projector and head,
a source beside the latents) trains in full and is saved in the same file; `pipelines/lora_files.py` puts it back.
"""

from pathlib import Path

import peft
import torch
from peft import get_peft_model_state_dict
from torch import nn

from ..models.convert_checkpoint import StateDict
from ..models.transformer_sama import SamaTransformer3DModel
from ..pipelines.lora_files import LORA_FILE, PREFIX, LoraFile
from ..pipelines.pipeline_sama import SamaPipeline
from ..system.errors import UserError
from ..system.files import written_aside
from .config import LoraConfig

ADAPTER = "default"


def add_lora(transformer: SamaTransformer3DModel, config: LoraConfig) -> None:
    """Put adapters beside the target modules; they start as no change. All weights but theirs are frozen.

    Raises:
        UserError: for targets that the transformer does not have.
    """
    transformer.requires_grad_(False)
    adapter = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets))
    try:
        transformer.add_adapter(adapter, adapter_name=ADAPTER)
    except ValueError as error:
        raise UserError(
            f"model.lora.targets={','.join(config.targets)} names no module of this transformer that takes an adapter; "
            "use such as to_q,to_k,to_v,to_out.0"
        ) from error


def halve_frozen(transformer: SamaTransformer3DModel) -> None:
    """Hold the blocks' frozen matrices in bfloat16, half the memory: autocast to bfloat16 would cast them anyway, so
    nothing changes in what is computed. Everything else stays in float32."""
    for module in transformer.blocks.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(torch.bfloat16)


def lora_state(transformer: SamaTransformer3DModel, config: LoraConfig) -> StateDict:
    """Adapters and trained parts under a LoRA file's names, on the CPU; all processes of a sharded model call it."""
    trained = {name for name, weight in transformer.named_parameters() if weight.requires_grad}
    weights = transformer.state_dict()
    state = {name: weights[name] for name in trained if ".lora_" not in name}
    state |= get_peft_model_state_dict(transformer, state_dict=weights, adapter_name=ADAPTER)
    state = {name: _gathered(weight) for name, weight in sorted(state.items())}
    scale = config.alpha / config.rank
    return {f"transformer.{name}": w * scale if ".lora_B." in name else w for name, w in state.items()}


def _gathered(weight: torch.Tensor) -> torch.Tensor:
    whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight  # pyright: ignore (of a DTensor)
    return whole.detach().cpu()


def export_lora(pipe: SamaPipeline, state: StateDict, folder: Path) -> None:
    """Write the LoRA file of a training, its `lora_state`, into `folder`.

    Raises:
        UserError: for a folder that cannot be written.
    """
    with written_aside(folder) as aside:
        aside.mkdir()
        streams = {PREFIX + name: value for name, value in pipe.streams.items()}
        LoraFile(state=state, metadata=streams).save(aside / LORA_FILE)
