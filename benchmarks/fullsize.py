"""One denoising step at the true size of the 14B model, with its weights streamed from disk, block by block.

    python benchmarks/fullsize.py [--preset wan2.1-14b] [--folder DIR] [--height 256] [--width 256] [--num-frames 5]

Random bfloat16 weights are written in shards under the official release's names (27 GiB for 14B), read by the step and
deleted. The step runs in a process of its own, whose peak of resident memory is the system's own count, file pages
included. With `--compare` the same step also runs with all weights in memory, and the results must be equal.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import init_empty_weights
from common import own_memory, setting
from safetensors import safe_open
from safetensors.torch import save_file

from sama_video.models.convert_checkpoint import load_official_transformer
from sama_video.models.official_names import TRANSFORMER_KEYS, renamer
from sama_video.models.presets import PRESETS
from sama_video.models.shapes import LatentShape, VideoShape
from sama_video.models.streamed_weights import StoredTensor, stream_weights
from sama_video.models.strict_loading import stored_dtypes
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.system.precision import choose_precision

SHARD_BYTES = 5 * 2**30
GIB = 2**30


def empty_model(preset: str) -> SamaTransformer3DModel:
    with init_empty_weights():
        return SamaTransformer3DModel(**PRESETS[preset].transformer).eval()


def write_shards(preset: str, folder: Path) -> int:
    """Bytes written."""
    official = renamer(TRANSFORMER_KEYS, reverse=True)
    generator = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    size = total = number = 0

    def flush() -> None:
        nonlocal shard, size, number
        number += 1
        save_file(shard, folder / f"sama-{number:05d}.safetensors", metadata={"format": "pt"})
        shard, size = {}, 0

    for name, parameter in empty_model(preset).state_dict().items():
        if parameter.ndim > 1:
            # Drawn once and repeated: what is measured does not depend on the values, and drawing takes minutes.
            drawn = torch.randn(min(parameter.numel(), 2**22), generator=generator) / math.sqrt(parameter[0].numel())
            tensor = drawn.repeat(-(-parameter.numel() // drawn.numel()))[: parameter.numel()].reshape(parameter.shape)
        else:
            tensor = torch.ones(parameter.shape) if name.endswith("weight") else torch.zeros(parameter.shape)
        shard[str(official(name))] = tensor.bfloat16().contiguous()
        size += shard[str(official(name))].nbytes
        total += parameter.numel() * 2
        if size >= SHARD_BYTES:
            flush()
    flush()
    return total


def streamed(preset: str, folder: Path, dtype: torch.dtype) -> SamaTransformer3DModel:
    model, ours, stored = empty_model(preset), renamer(TRANSFORMER_KEYS), {}
    dtypes = stored_dtypes(model, dtype)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names = {str(ours(key)): key for key in opened.keys()}  # noqa: SIM118 (not a dict)
        stored |= {name: StoredTensor(file, key, dtypes[name]) for name, key in names.items()}
    stream_weights(model, stored, torch.device("cpu"))
    return model


def resident(preset: str, folder: Path, dtype: torch.dtype) -> SamaTransformer3DModel:
    model = load_official_transformer(folder, PRESETS[preset].transformer["num_attention_heads"])
    dtypes = stored_dtypes(model, dtype)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return model


@torch.no_grad()
def step(preset: str, folder: Path, how: str, video: VideoShape, dtype: torch.dtype, out: Path) -> None:
    """In a process of its own: the velocity to `out`, and a line of JSON."""
    imported = own_memory("VmHWM")
    model = {"streamed": streamed, "resident": resident}[how](preset, folder, dtype)
    shape = LatentShape.from_video(video, PRESETS[preset].spatial_factor)
    channels = PRESETS[preset].transformer["in_channels"]
    generator = torch.Generator().manual_seed(1)
    latents, source = torch.randn(
        2, 1, channels, shape.frames, shape.height, shape.width, generator=generator, dtype=dtype
    )
    started = time.perf_counter()
    velocity, semantic = model(
        latents,
        timestep=torch.tensor([700.0]),
        encoder_hidden_states=torch.randn(1, 512, 4096, generator=generator, dtype=dtype),
        source_hidden_states=source,
        semantic_hidden_states=torch.randn(1, 65, 1152, generator=generator, dtype=dtype),
        return_dict=False,
    )
    seconds = time.perf_counter() - started
    save_file({"velocity": velocity.float().contiguous(), "semantic": semantic.float().contiguous()}, out)
    print(json.dumps({"seconds": seconds, "peak": own_memory("VmHWM"), "imported": imported}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-14b")
    parser.add_argument("--folder", type=Path, help="Where the weights are written and deleted; default: a new one.")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--num-frames", type=int, default=5)
    parser.add_argument("--dtype", default=choose_precision("cpu"), choices=("float32", "bfloat16"))
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--step", choices=("streamed", "resident"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    video = VideoShape(num_frames=arguments.num_frames, height=arguments.height, width=arguments.width)
    dtype = getattr(torch, arguments.dtype)
    if arguments.step:
        folder = arguments.folder
        step(arguments.preset, folder, arguments.step, video, dtype, folder / f"{arguments.step}.out")
        return
    print(setting())
    folder = Path(tempfile.mkdtemp(prefix="fullsize_", dir=arguments.folder))
    try:
        started = time.perf_counter()
        written = write_shards(arguments.preset, folder)
        print(f"{arguments.preset}: {written / GIB:.1f} GiB written in {time.perf_counter() - started:.0f} s")
        tokens = 2 * LatentShape.from_video(video, PRESETS[arguments.preset].spatial_factor).num_tokens() + 65
        print(f"{arguments.num_frames} frames of {arguments.width}x{arguments.height}: {tokens} tokens, {dtype}")
        for how in ("streamed", *(["resident"] if arguments.compare else [])):
            command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--step", how]
            result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
            print(
                f"{how}: {result['seconds']:.1f} s for the step, {result['peak'] / GIB:.2f} GiB resident at the peak "
                f"({result['imported'] / GIB:.2f} after the imports)",
                flush=True,
            )
        if arguments.compare:
            both = [(folder / f"{how}.out").read_bytes() for how in ("streamed", "resident")]
            print("the results are equal to the bit" if both[0] == both[1] else "THE RESULTS DIFFER")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
