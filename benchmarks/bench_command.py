"""Whole processes: `sama --help` against a bare Python with typer's imports, and an edit of 33 frames with the nano."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import compare, report, setting

from sama_video.models.presets import ASSETS

SAMA = [sys.executable, "-m", "sama_video.cli"]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    print(setting())
    print("sama --help; baseline: python -c 'import typer, rich'")
    baseline = (sys.executable, "-c", "import typer, rich")
    report("help", *compare(lambda: run(*SAMA, "--help"), lambda: run(*baseline), rounds=9))
    print("sama edit, 33 frames of 640x480 with detail; baseline: importing torch, diffusers, transformers")
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            output = str(Path(folder) / "out.mp4")
            run(
                *SAMA,
                "edit",
                str(ASSETS / "demo.mp4"),
                "make it sepia",
                "-o",
                output,
                "--num-frames",
                "33",
                "--overwrite",
            )
            seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        run(sys.executable, "-c", "import torch, diffusers, transformers; from diffusers import AutoencoderKLWan")
        imports = time.perf_counter() - started
    median = statistics.median(seconds)
    print(f"edit: {median:.1f} s, of which importing libraries {imports:.1f} s, ratio {median / imports:.2f}")


if __name__ == "__main__":
    main()
