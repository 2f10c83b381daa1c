"""Whether to compute in bfloat16: where the hardware multiplies it fast, else in float32.

On a processor without bfloat16 arithmetic (most laptops, many servers) a product in bfloat16 takes 20 to 100 times as
long as in float32. There it is measured, not looked up: the processor's flags know nothing of the limits that
ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA set, nor of what the installed libraries make of them. See
docs/decisions/precision.md.
"""

import time
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["bfloat16", "float32"]
PrecisionOrAuto = Literal["auto", "bfloat16", "float32"]

SIDE = 256  # of the matrices: large enough for the blocked kernels, and slow bfloat16 still takes only 25 ms
ROUNDS = 40
_ENOUGH_SECONDS = 0.1
# Casting weights and activations takes time too: a product that is hardly faster makes a slower step.
WORTH_IT = 0.8


def choose_precision(device: "str | torch.device", wanted: PrecisionOrAuto = "auto") -> Precision:
    """What "auto" means on a device; any other value is returned as it is.

    Args:
        device: CUDA devices are asked, the CPU is measured (once per process, below 0.2 s), others get float32.
    """
    if wanted != "auto":
        return wanted
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        # torch counts the emulation of older cards as support unless told otherwise.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if kind == "cpu" and relative_seconds() <= WORTH_IT else "float32"


@cache
def relative_seconds() -> float:
    """Seconds of a product of two matrices on this CPU in bfloat16, as a multiple of those in float32.

    One thread: where others keep the cores busy, several mostly wait for each other, which says nothing of arithmetic.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        float32 = torch.ones(SIDE, SIDE)
        bfloat16 = float32.bfloat16()
        # The first product of a kind also compiles its kernel.
        _seconds(float32)
        _seconds(bfloat16)
        seconds, started = [], time.perf_counter()
        # In turn, so that a busy machine slows both; the fastest of each is the least disturbed one.
        while len(seconds) < ROUNDS and (len(seconds) < 2 or time.perf_counter() - started < _ENOUGH_SECONDS):
            seconds.append((_seconds(float32), _seconds(bfloat16)))
    finally:
        torch.set_num_threads(threads)
    return min(second for _, second in seconds) / min(first for first, _ in seconds)


def _seconds(matrix: "torch.Tensor") -> float:
    started = time.perf_counter()
    matrix.matmul(matrix)
    return time.perf_counter() - started
