"""A pipeline from a preset's name, a local folder, a converted checkpoint or a hub id, in its place."""

import diffusers
import torch
import transformers
from diffusers import UniPCMultistepScheduler

from ..errors import UserError
from .pipeline_sama import SamaPipeline
from .selection import Loading, first_line, read_config, resolve_model, split_lora_entry


def load_pipeline(
    model: str = "nano",
    *,
    device: str = "auto",
    dtype: str = "auto",
    offload: str = "none",
    scheduler: str = "euler",
    vae_tiling: bool = False,
    lora: list[str] | None = None,
) -> SamaPipeline:
    """Load a pipeline and put it where it shall run.

    Args:
        model: preset, folder or hub id.
        device: "auto" takes CUDA or MPS where there is one.
        dtype: "auto" is bfloat16 on an accelerator, float32 on the CPU.
        offload: "model", "sequential" or "group" keep weights off the accelerator while they are not needed.
        scheduler: "euler" (the release's) or "unipc".
        vae_tiling: encode and decode in the release's tiles.
        lora: files or folders, each `PATH` or `PATH:SCALE`.

    Raises:
        UserError: for anything that cannot be loaded, with the mend.
    """
    loading = Loading(
        model=model,
        device=device,
        dtype=dtype,
        offload=offload,
        scheduler=scheduler,
        vae_tiling=vae_tiling,
        lora=lora,
    )
    folder = resolve_model(model)
    read_config(model, "model_index.json")  # diffusers' own message on a hub id that is none is five lines long
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
    try:
        pipe = SamaPipeline.from_pretrained(folder, dtype=getattr(torch, loading.precision))
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot load the model {model} ({first_line(error)}); is it complete, and a SAMA pipeline?"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "unipc":
        pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=pipe.config.default_flow_shift
        )
    if vae_tiling:
        pipe.enable_vae_tiling()
    if lora:
        _load_loras(pipe, lora)
    _place(pipe, loading.place, offload)
    pipe.loaded_as = loading
    return pipe


def _load_loras(pipe: SamaPipeline, entries: list[str]) -> None:
    names, scales = [], []
    for number, entry in enumerate(entries):
        path, scale = split_lora_entry(entry)
        try:
            pipe.load_lora_weights(path, adapter_name=f"lora_{number}")
        except UserError:
            raise
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"the LoRA {path} does not fit this model ({str(error).splitlines()[0]})") from error
        names.append(f"lora_{number}")
        scales.append(scale)
    pipe.set_adapters(names, scales)


def _place(pipe: SamaPipeline, device: str, offload: str) -> None:
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        pipe.enable_group_offload(
            onload_device=torch.device(device),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=device.startswith("cuda"),
        )
    else:
        pipe.to(device)
