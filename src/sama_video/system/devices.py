"""Memory of the devices that torch computes on; imports torch when an accelerator is asked for."""

from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch


def device_memory(device: "str | torch.device") -> int:
    """Bytes of a device's memory, used or not."""
    cuda = _cuda(device)
    return psutil.virtual_memory().total if cuda is None else cuda.get_device_properties(device).total_memory


def free_memory(device: "str | torch.device") -> int:
    """Bytes of a device's memory that are free now."""
    cuda = _cuda(device)
    return psutil.virtual_memory().available if cuda is None else cuda.mem_get_info(device)[0]


def _cuda(device: "str | torch.device") -> Any:
    """torch's functions for a CUDA device; None for others, which share the main memory."""
    if not str(device).startswith("cuda"):
        return None
    import torch

    return torch.cuda
