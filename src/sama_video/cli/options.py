"""Options that several commands share, and what options are called elsewhere."""

import re
from typing import Annotated

import typer

BaseUrl = Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")]
ApiKeyEnv = Annotated[str, typer.Option(help="Environment variable that holds the key.")]
Concurrency = Annotated[int, typer.Option(help="Requests in flight.")]
Timeout = Annotated[float, typer.Option(help="Seconds for a request.")]
MaxTries = Annotated[int, typer.Option(help="Requests sent before one is given up.")]
DryRun = Annotated[bool, typer.Option(help="Print what would be asked and what it costs; ask nothing.")]
PriceIn = Annotated[float, typer.Option(help="Price of a million input tokens, for --dry-run.")]
PriceOut = Annotated[float, typer.Option(help="Price of a million output tokens, for --dry-run.")]
SecondsPerRequest = Annotated[float, typer.Option(help="Assumed, for --dry-run.")]

# What other editors call the same options. Every option may also be written with underscores.
ALIASES = {
    "--src-video": "--video",
    "--video-path": "--video",
    "--instruction": "--prompt",
    "--sample-steps": "--num-inference-steps",
    "--infer-steps": "--num-inference-steps",
    "--steps": "--num-inference-steps",
    "--cfg-scale": "--guidance-scale",
    "--sample-guide-scale": "--guidance-scale",
    "--sigma-shift": "--flow-shift",
    "--sample-shift": "--flow-shift",
    "--max-frames": "--num-frames",
    "--frame-num": "--num-frames",
    "--base-seed": "--seed",
    "--save-file": "--output",
    "--output-dir": "--output",
    "--lora-path": "--lora",
    "--model-path": "--model",
}


def option_of(name: str) -> str:
    """The option that a name in another spelling, or of another editor, stands for: "CFG_scale": "--guidance-scale"."""
    plain = "--" + name.strip().lower().lstrip("-").replace("_", "-").replace(" ", "-")
    return ALIASES.get(plain, plain)


def in_options(message: str) -> str:
    """A `UserError`'s message with the command's options for the names of settings: `num_frames` -> --num-frames."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda name: f"--{name[1].replace('_', '-')}", message)


def parse_size(text: str) -> tuple[int, int] | None:
    """Width and height of "832x480" or "832*480"; None for anything else."""
    size = re.fullmatch(r"\s*(\d+)\s*[*xX]\s*(\d+)\s*", text)
    return (int(size[1]), int(size[2])) if size else None
