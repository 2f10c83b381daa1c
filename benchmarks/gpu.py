"""What a GPU makes of the full-size model: seconds of a step, memory, training, in one table. Under nine minutes.

    python benchmarks/gpu.py [--preset wan2.1-14b] [--num-frames 81] [--height 480] [--width 832]

Random weights: time and memory do not depend on their values. A sampling's time is that of its steps, measured one by
one, times their number; the autoencoder is measured by itself. `--device cpu` with a small preset tries the script.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from common import setting
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import nn

from sama_video.models.latents import Tiling, decode_latents, encode_video
from sama_video.models.presets import PRESETS
from sama_video.models.shapes import LatentShape, VideoShape
from sama_video.models.source_memory import SourceMemory
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.training.losses import flow_matching_step

GIB = 2**30
TEXT = 512
RELEASED_STEPS, FAST_STEPS = 50, 4


class Bench:
    """A device, its clock and its memory."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"

    def measured(self, work: Callable[[], object], rounds: int = 2) -> tuple[float, float]:
        """Seconds (median, after one run to warm up) and GiB at the peak."""
        work()
        self._reset()
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times), torch.cuda.max_memory_allocated() / GIB if self.on_gpu else float("nan")

    def row(self, name: str, work: Callable[[], object], rounds: int = 2) -> float:
        seconds, memory = self.measured(work, rounds)
        print(f"| {name} | {seconds:.3f} | {memory:.1f} |", flush=True)
        return seconds

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def _reset(self) -> None:
        self._wait()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def random(self, cls: type, **config) -> nn.Module:
        """A model with random weights in bfloat16, made on the device."""
        with init_empty_weights():
            model = cls(**config)
        model = model.to(torch.bfloat16).to_empty(device=self.device).eval()
        generator = torch.Generator(self.device).manual_seed(0)
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            parameter.data.normal_(std=fan_in**-0.5, generator=generator)
        if hasattr(model, "rope"):  # tables that no checkpoint holds
            sizes = model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len
            model.rope = WanRotaryPosEmbed(*sizes).to(self.device)
        return model

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.bfloat16)


@torch.no_grad()
def sampling(bench: Bench, preset: str, shape: LatentShape) -> None:
    config = dict(PRESETS[preset].transformer)
    model = bench.random(SamaTransformer3DModel, **config)
    latents = bench.noise(2, config["in_channels"], shape.frames, shape.height, shape.width)
    semantic = config.get("semantic_dim", 1152)
    streams = {
        "hidden_states": latents[:1],
        "timestep": torch.tensor([700.0], device=bench.device),
        "encoder_hidden_states": bench.noise(1, TEXT, config.get("text_dim", 4096)),
        "source_hidden_states": latents[1:],
        "semantic_hidden_states": bench.noise(1, config.get("semantic_grid", 8) ** 2 + 1, semantic),
    }

    def one_pass(**more) -> object:
        return model(**streams, return_dict=False, **more)

    plain = bench.row("a pass, all weights on the device", one_pass)
    kept = _remembered(bench, one_pass)
    released, fast = 2 * RELEASED_STEPS * plain, FAST_STEPS * plain
    refreshed = 2 * RELEASED_STEPS * (plain + 4 * kept) / 5
    for name, seconds in (
        (f"sampling as released: {RELEASED_STEPS} steps with guidance", released),
        ("the same, the source in every 5th step", refreshed),
        (f"--fast: {FAST_STEPS} steps without guidance", fast),
    ):
        print(f"| {name} | {seconds:.1f} | {released / seconds:.1f} times faster |", flush=True)
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    bench.row("a pass, --storage-dtype float8", one_pass)
    del model
    if bench.on_gpu:
        model = bench.random(SamaTransformer3DModel, **config).to("cpu")
        model.enable_group_offload(
            onload_device=bench.device, offload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=True
        )
        bench.row("a pass, --offload group", one_pass, rounds=1)


def _remembered(bench: Bench, one_pass: Callable[..., object]) -> float:
    memory = SourceMemory()
    one_pass(source_memory=memory)
    return bench.row("a pass that remembers the source", lambda: one_pass(source_memory=memory))


@torch.no_grad()
def autoencoding(bench: Bench, video: VideoShape) -> None:
    vae = bench.random(AutoencoderKLWan)
    pixels = bench.noise(1, 3, video.num_frames, video.height, video.width).clamp(-1, 1)
    latents = encode_video(vae, pixels)
    for name, tiling in (("whole", None), ("in tiles", Tiling(size=(30, 52), stride=(15, 26)))):
        bench.row(f"encoding, {name}", lambda tiling=tiling: encode_video(vae, pixels, tiling), rounds=1)
        bench.row(f"decoding, {name}", lambda tiling=tiling: decode_latents(vae, latents, tiling), rounds=1)


def training(bench: Bench, preset: str, shape: LatentShape) -> None:
    """A step of the objective with AdamW against a plain loop of stock diffusers over as many tokens."""
    config = dict(PRESETS[preset].transformer)
    stock = {name: config[name] for name in ("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim")}
    stock |= {name: config[name] for name in ("in_channels", "out_channels")} | {
        "text_dim": config.get("text_dim", 4096)
    }
    clip = torch.randn(1, config["in_channels"], shape.frames, shape.height, shape.width, device=bench.device)
    text = torch.randn(1, TEXT, stock["text_dim"], device=bench.device)
    sigma = torch.tensor([0.7], device=bench.device)

    def steps(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> Callable[[], None]:
        model = model.float().train()
        model.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def step() -> None:
            with torch.autocast(bench.device.type, torch.bfloat16):
                value = loss(model)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def ours(model: nn.Module) -> torch.Tensor:
        noise = torch.randn_like(clip)
        return flow_matching_step(model, target=clip, source=clip, text=text, sigma=sigma, noise=noise).loss.mean()

    def theirs(model: nn.Module) -> torch.Tensor:
        twice = torch.cat([clip, clip], dim=2)
        noise = torch.randn_like(twice)
        output = model((1 - 0.7) * twice + 0.7 * noise, 1000 * sigma, text, return_dict=False)[0]
        return nn.functional.mse_loss(output.float(), noise - twice)

    mine = bench.row(f"training step of {preset}", steps(bench.random(SamaTransformer3DModel, **config), ours))
    plain = bench.row("stock diffusers, as many tokens", steps(bench.random(WanTransformer3DModel, **stock), theirs))
    print(f"| ours over stock | {mine / plain:.3f} | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-14b")
    parser.add_argument("--trained-preset", default="wan2.1-1.3b", help="Of the training step, in float32.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(arguments.device)
    video = VideoShape(num_frames=arguments.num_frames, height=arguments.height, width=arguments.width)
    shape = LatentShape.from_video(video, PRESETS[arguments.preset].spatial_factor)
    print(setting(), torch.cuda.get_device_name() if bench.on_gpu else "")
    print(f"{arguments.preset}, {video.num_frames} frames of {video.width}x{video.height}, bfloat16\n")
    print("| what | seconds | GiB at the peak |\n|---|---|---|")
    sampling(bench, arguments.preset, shape)
    autoencoding(bench, video)
    shorter = LatentShape(frames=(shape.frames + 1) // 2, height=shape.height, width=shape.width)
    training(bench, arguments.trained_preset, shorter)


if __name__ == "__main__":
    main()
