"""What options are called elsewhere, and how messages name them."""

import re

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
