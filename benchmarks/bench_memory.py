"""Memory: what `sama info` predicts against what is measured, loading, what each way to save memory does to results.

    python benchmarks/bench_memory.py [--only peaks|loading|results]

Each measurement runs in a process of its own on the CPU: the system's count of resident memory at the peak, less that
after the imports. Models have random weights in the sizes given, Wan's real autoencoder and the nano's text encoder.
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import own_memory, setting
from diffusers import AutoencoderKLWan

from sama_video.models.peak_memory import Work, demand_of
from sama_video.models.presets import PRESETS
from sama_video.models.shapes import VideoShape
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.pipelines.selection import find_model, parts_of
from sama_video.synth.engine import Engine
from sama_video.synth.sprites import NANO_VOCABULARY
from sama_video.system.devices import device_memory

MIB = 2**20
SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 4}
WIDE = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 1}
# Transformer, frames, height, width, options of `load_pipeline`, guidance; the size of latents alone with "latent".
SETTINGS: tuple[tuple[str, dict[str, Any], tuple[int, int, int], dict[str, Any], float], ...] = (
    ("1.3B's width, 4 layers", SMALL, (17, 240, 416), {}, 1.0),
    ("the same, larger frames", SMALL, (5, 320, 576), {}, 1.0),
    ("the same in tiles", SMALL, (5, 320, 576), {"vae_tiling": True}, 1.0),
    ("14B's width, 1 layer, in tiles, from disk", WIDE, (5, 320, 576), {"offload": "disk", "vae_tiling": True}, 1.0),
    ("14B's width, 1 layer, bfloat16, latents", WIDE, (17, 480, 832), {"dtype": "bfloat16", "latent": True}, 1.0),
    ("1.3B's width, 4 layers, guidance, latents", SMALL, (17, 480, 832), {"dtype": "bfloat16", "latent": True}, 3.0),
)


def make_model(folder: Path, transformer: dict[str, Any]) -> None:
    nano = load_pipeline("nano", device="cpu")
    torch.manual_seed(0)
    pipe = SamaPipeline(
        transformer=SamaTransformer3DModel(**transformer, text_dim=192).to(torch.bfloat16),
        vae=AutoencoderKLWan().to(torch.bfloat16),
        text_encoder=nano.text_encoder,
        tokenizer=nano.tokenizer,
        max_sequence_length=48,
        default_num_inference_steps=1,
        default_guidance_scale=1.0,
    )
    pipe.save_pretrained(folder, max_shard_size="1GB")


def measure(folder: str, size: tuple[int, int, int], options: dict[str, Any], guidance: float) -> None:
    """In a process of its own: a line of JSON."""
    imported = own_memory("VmRSS")
    latent = options.pop("latent", False)
    pipe = load_pipeline(folder, device="cpu", memory="full", **options)
    loaded = own_memory("VmHWM") - imported
    gc.collect()
    stays = own_memory("VmRSS") - imported
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    frames, height, width = size
    if latent:
        source = torch.randn(1, 16, (frames + 3) // 4, height // 8, width // 8)
        given = {"source_latents": source, "height": height, "width": width, "num_frames": frames}
    else:
        given = {"video": np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)}
    pipe(**given, prompt="make it red", guidance_scale=guidance, output_type="latent" if latent else "pt")
    print(json.dumps({"loaded": loaded, "stays": stays, "edited": own_memory("VmHWM") - imported}))


def in_a_process(*arguments: Any) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peaks(chosen: list[int] | None) -> None:
    print("| setting | frames | predicted, MiB | measured | ratio | loading | stays |\n|---|---|---|---|---|---|---|")
    for name, transformer, size, options, guidance in [SETTINGS[number] for number in chosen or range(len(SETTINGS))]:
        folder = Path(tempfile.mkdtemp(prefix="memory_"))
        try:
            make_model(folder, transformer)
            result = in_a_process(str(folder), size, options, guidance)
            work = Work(
                video=VideoShape(num_frames=size[0], height=size[1], width=size[2]),
                spatial_factor=8,
                text_tokens=48,
                num_semantic_tokens=65,
                with_guidance=guidance > 1,
                tiles=options.get("vae_tiling", False),
                device_memory=device_memory("cpu"),
            )
            demand = demand_of(parts_of(find_model(folder)), work, dtype=options.get("dtype", "float32"))
            if options.get("latent"):
                alone = {"denoise": demand.work["denoise"]}
                demand = replace(demand, work=alone, always=0.0)
            predicted = demand.peaks(on_host=True)[options.get("offload", "none")].device
        finally:
            shutil.rmtree(folder)
        loaded, stays, edited = (result[key] / MIB for key in ("loaded", "stays", "edited"))
        shown = "x".join(map(str, size))
        ratio = predicted / MIB / edited
        row = f"{name} | {shown} | {predicted / MIB:.0f} | {edited:.0f} | {ratio:.2f} | {loaded:.0f} | {stays:.0f}"
        print(f"| {row} |", flush=True)


@torch.no_grad()
def results() -> None:
    """Edits of the nano, each way against the plain run, in levels of 255."""
    engine = Engine(split="known", vocabulary=NANO_VOCABULARY, seed=3)
    pairs = [engine.pair(index, 17, 128, 128) for index in range(8)]

    def edited(**options: Any) -> np.ndarray:
        pipe = load_pipeline("nano", device="cpu", memory="full", **options)
        calls = [
            pipe(video=pair.source, prompt=pair.instruction, generator=torch.Generator().manual_seed(0)).frames[0]
            for pair in pairs
        ]
        return 255 * np.stack(calls)

    plain = edited()
    print("| way | mean difference, levels | 99th percentile |\n|---|---|---|")
    for name, options in (
        ("--offload group", {"offload": "group"}),
        ("--offload disk", {"offload": "disk"}),
        ("--vae-tiling", {"vae_tiling": True}),
        ("--dtype bfloat16", {"dtype": "bfloat16"}),
        ("--storage-dtype float8", {"storage_dtype": "float8"}),
        ("--storage-dtype int8", {"storage_dtype": "int8"}),
    ):
        try:
            difference = np.abs(edited(**options) - plain)
        except Exception as error:
            print(f"| {name} | {error} | |", flush=True)
            continue
        print(f"| {name} | {difference.mean():.3f} | {np.percentile(difference, 99):.2f} |", flush=True)


def loading() -> None:
    """A model of 1.3B, in shards of a gigabyte."""
    folder = Path(tempfile.mkdtemp(prefix="memory_"))
    config = PRESETS["wan2.1-1.3b"].transformer
    try:
        make_model(folder, dict(config) | {"num_layers": 30})
        print("| loaded as | at the peak, MiB | stays |\n|---|---|---|")
        for options in (
            {"dtype": "bfloat16"},
            {},
            {"storage_dtype": "float8", "dtype": "bfloat16"},
            {"offload": "disk"},
        ):
            result = in_a_process(str(folder), (1, 64, 64), options, 1.0)
            how = ", ".join(f"{name} {value}" for name, value in options.items()) or "float32"
            print(f"| {how} | {result['loaded'] / MIB:.0f} | {result['stays'] / MIB:.0f} |", flush=True)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("peaks", "loading", "results"))
    parser.add_argument("--settings", type=int, nargs="*", help="Of the peaks, by number from 0; default: all.")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, size, options, guidance = json.loads(arguments.measure)
        measure(folder, tuple(size), options, guidance)
        return
    print(setting())
    for name, part in (("peaks", lambda: peaks(arguments.settings)), ("loading", loading), ("results", results)):
        if arguments.only in (None, name):
            print(f"\n{name}\n")
            part()


if __name__ == "__main__":
    main()
