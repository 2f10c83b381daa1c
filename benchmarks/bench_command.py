"""Whole processes: `sama --help` against a bare Python with typer's imports, answers that need no model, an edit of 33
frames with the nano."""

import os
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


def answers(folder: Path) -> dict[str, list[str]]:
    """Commands that need no model, by what is asked."""
    clip = str(ASSETS / "demo.mp4")
    edit = ["edit", clip, "make it sepia"]
    (folder / "odd.csv").write_text("film,prompt\nclip.mp4,x\n")
    (folder / "taken.mp4").touch()
    return {
        "a missing file": ["edit", str(folder / "none.mp4"), "make it sepia"],
        "--dry-run": [*edit, "--dry-run"],
        "-o x.avi": [*edit, "-o", str(folder / "x.avi")],
        "an existing output": [*edit, "-o", str(folder / "taken.mp4")],
        "wrong columns": ["edit", "--manifest", str(folder / "odd.csv")],
        "a wrong option value": [*edit, "--num-frames", "0"],
        "an unknown device": [*edit, "--device", "banana"],
        "an unknown model": [*edit, "--model", "huge"],
        "a missing LoRA": [*edit, "--lora", str(folder / "none.safetensors")],
        "an unknown recipe": ["train", "no-such", "--dry-run"],
        "a run that is none": ["eval", "judge", str(folder)],
        "a missing manifest": ["data", "check", str(folder / "none.csv")],
        "missing weights": ["convert", str(folder / "none"), str(folder / "out")],
    }


def processor_seconds(command: list[str]) -> float:
    """Of a process and those that it waited for."""
    before = os.times()
    subprocess.run([*SAMA, *command], check=False, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    print(setting())
    print("sama --help; baseline: python -c 'import typer, rich'")
    baseline = (sys.executable, "-c", "import typer, rich")
    report("help", *compare(lambda: run(*SAMA, "--help"), lambda: run(*baseline), rounds=9))
    print("processor time of answers that need no model: median of 5; the target is 1 s each")
    with tempfile.TemporaryDirectory() as folder:
        for name, command in answers(Path(folder)).items():
            print(f"{name}: {statistics.median(processor_seconds(command) for _ in range(5)):.2f} s")
    print("sama edit, 33 frames of 384x288 with detail; baseline: importing torch, diffusers, transformers")
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
