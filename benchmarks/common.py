"""What every benchmark prints: its setting, and two contenders timed in turn so that a drifting machine cancels out."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path


def setting() -> str:
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "diffusers", "av"))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def own_memory(entry: str) -> int:
    """Bytes of this process alone, on Linux: "VmRSS" now, "VmHWM" at its peak.

    `getrusage` begins with what the process held that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def compare(ours: Callable[[], object], baseline: Callable[[], object], rounds: int = 7) -> tuple[float, float, float]:
    """Median seconds of both and the median of the pairwise ratios ours / baseline, after one warm-up each."""
    ours(), baseline()
    pairs = []
    for _ in range(rounds):
        seconds = []
        for contender in (ours, baseline):
            started = time.perf_counter()
            contender()
            seconds.append(time.perf_counter() - started)
        pairs.append(seconds)
    return (
        statistics.median(pair[0] for pair in pairs),
        statistics.median(pair[1] for pair in pairs),
        statistics.median(pair[0] / pair[1] for pair in pairs),
    )


def report(name: str, ours: float, baseline: float, ratio: float) -> None:
    print(f"{name}: ours {ours * 1000:.1f} ms, baseline {baseline * 1000:.1f} ms, ratio {ratio:.3f}")
