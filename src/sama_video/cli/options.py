"""What options are called elsewhere, and how messages name them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer


def parse_time(text: str | float) -> float:
    """Seconds of "75.5", "1:15.5" or "0:01:15.5".

    Raises:
        typer.BadParameter: for anything else.
    """
    found = re.fullmatch(r"\s*(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)\s*", str(text))
    if found is None or (found[2] is not None and float(found[3]) >= 60) or (found[1] and int(found[2]) >= 60):
        raise typer.BadParameter(f"{text!r} is no time; give seconds or mm:ss, such as 75.5 or 1:15.5")
    return 3600 * int(found[1] or 0) + 60 * int(found[2] or 0) + float(found[3])


# Of SAMA's edits, by 'sama edit' and 'sama eval predict'.
ModelName = Annotated[str, typer.Option(help="Preset, local folder or hub id (OWNER/NAME, OWNER/NAME@REVISION).")]
Lora = Annotated[list[str] | None, typer.Option(help="PATH or PATH:SCALE (hub ids, too); may be given again.")]
NumInferenceSteps = Annotated[int | None, typer.Option(help="Default: the model's own.")]
GuidanceScale = Annotated[float | None, typer.Option(help="Default: the model's own; 1 is none.")]
FlowShift = Annotated[float | None, typer.Option(help="Default: the model's own.")]
Fast = Annotated[bool, typer.Option("--fast", help="4 steps without guidance, as distilled models and LoRAs take.")]
GuidanceStart = Annotated[float, typer.Option(help="Guidance begins after this part of the steps.")]
GuidanceEnd = Annotated[float, typer.Option(help="And ends after this one; without it a step costs half.")]
SourceRefresh = Annotated[int, typer.Option(help="Compute the source in every so many steps; above 1 approximate.")]
MaxPixels = Annotated[int | None, typer.Option(help="Working pixels a frame; default: the model's own.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Memory = Annotated[str, typer.Option(help="auto, full or low: how much of the weights stays where they are used.")]
Offload = Annotated[str, typer.Option(help="none, model, sequential, group or disk.")]
StorageDtype = Annotated[str, typer.Option(help="same, float8 or int8: how the transformer's matrices are kept.")]
VaeTiling = Annotated[bool, typer.Option(help="Encode and decode in tiles, for large frames.")]
Start = Annotated[float, typer.Option(help="Into the source, seconds or mm:ss.", parser=parse_time, metavar="TIME")]
End = Annotated[float | None, typer.Option(help="Where to stop, likewise.", parser=parse_time, metavar="TIME")]
ColumnMap = Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN of the manifest; repeatable.")]

Strength = Annotated[
    float | None, typer.Option(help="0 is the source, 1 the edit, more goes beyond; default: 1, or as the words say.")
]
Mask = Annotated[str | None, typer.Option(help="Picture or clip: edit where it is white.", metavar="FILE")]
Box = Annotated[str | None, typer.Option(help="Edit inside of it alone; pixels or percent.", metavar="X,Y,W,H")]
Codec = Annotated[
    str | None, typer.Option(help="h264, hevc, prores, vp9, gif, webp or apng; default: by the result's suffix.")
]

Made = TypeVar("Made")

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


def made_of(options: Mapping[str, Any], kind: Callable[..., Made], **more: Any) -> Made:
    """A dataclass from those of a command's options (its `locals()`) that have its fields' names."""
    names = {each.name for each in fields(kind)} - more.keys()  # pyright: ignore[reportArgumentType] (a dataclass)
    return kind(**{name: value for name, value in options.items() if name in names}, **more)


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
