"""Editing files: read at the model's size, edit in windows, bring back to the source's size, write with its sound.

Shape legend: F frames, h w model size, H W the source's size; frames are uint8 `[F, h, w, 3]` unless said otherwise.
"""

import contextlib
import json
import math
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from .detail import JointUpsampler, resize_plainly
from .errors import UserError
from .files import written_aside
from .shapes import fit_size, nearest_multiple
from .video import (
    Frame,
    VideoInfo,
    VideoReader,
    VideoWriter,
    check_output_suffix,
    regular_time_base,
    write_image,
)

if TYPE_CHECKING:
    from .pipelines.pipeline_sama import ModelFacts, SamaPipeline

Progress = Callable[[str, int, int], None]
CONTACT_COLUMNS = 6
LOWEST = {
    "seed": 0,
    "num_inference_steps": 1,
    "height": 1,
    "width": 1,
    "max_pixels": 1,
    "start": 0,
    "num_frames": 1,
}
CHOICES = {"fit": ("resize", "crop", "pad"), "output_size": ("source", "model"), "detail": ("source", "none")}
# Of a result's record, what a result made again would have to have in common with it.
IDENTITY = ("prompt", "source", "settings", "weights", "lora", "scheduler", "dtype", "vae_tiling")


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """How to edit one file.

    Args:
        negative_prompt: what guidance leads away from.
        seed: of both streams.
        num_inference_steps, guidance_scale, flow_shift: None for the model's own.
        height, width: the model's working size; None for the source's aspect ratio at the model's native area.
        max_pixels: working area instead of the model's native one.
        start: seconds into the source at which to begin.
        num_frames: edit only so many frames; None for all.
        fit: how a source of another aspect ratio meets the working size: squeezed a little ("resize"), cut ("crop"),
            or with borders that are taken off again ("pad").
        output_size: "source" or "model".
        detail: "source" brings back the source's own resolution (see `detail.py`), "none" resizes plainly. None means
            "source" where the working size is below the source's.
        crf: x264's quality, lower is better.
    """

    negative_prompt: str | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    flow_shift: float | None = None
    height: int | None = None
    width: int | None = None
    max_pixels: int | None = None
    start: float = 0.0
    num_frames: int | None = None
    fit: Literal["resize", "crop", "pad"] = "resize"
    output_size: Literal["source", "model"] = "source"
    detail: Literal["source", "none"] | None = None
    crf: int = 16

    def __post_init__(self) -> None:
        for name, lowest in LOWEST.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UserError(f"--{name.replace('_', '-')} must be one of {', '.join(choices)}, got {value!r}")
        if self.seed >= 2**63:
            raise UserError(f"--seed must be below 2**63, got {self.seed}")
        if not 0 <= self.crf <= 51:
            raise UserError(f"--crf must lie in 0..51, got {self.crf}")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise UserError(f"--guidance-scale must be a finite number, got {self.guidance_scale}; 1 is no guidance")
        if self.flow_shift is not None and not 0 < self.flow_shift < math.inf:
            raise UserError(f"--flow-shift must be above 0, got {self.flow_shift}; 1 is no shift")
        if (self.height is None) != (self.width is None):
            raise UserError("give both --height and --width, or neither")

    def resolved(self, facts: "ModelFacts") -> "EditSettings":
        """With a model's own numbers where none were given."""
        defaults = {
            "num_inference_steps": facts.default_num_inference_steps,
            "guidance_scale": facts.default_guidance_scale,
            "flow_shift": facts.default_flow_shift,
        }
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """Sizes of one edit.

    Args:
        info: of the source.
        model_size: (height, width) that the transformer works at.
        area: (top, left, height, width) of the source that is edited; negative or larger than the source with "pad".
        canvas: (height, width) at which results are made: the edited area's, or the model's with `--output-size model`.
        output_size: (height, width) of the result: the canvas without borders added by "pad".
        detail: whether the source's own resolution comes back.
        window: frames per pass of the model (4k+1).
    """

    info: VideoInfo
    model_size: tuple[int, int]
    area: tuple[int, int, int, int]
    canvas: tuple[int, int]
    output_size: tuple[int, int]
    detail: Literal["source", "none"]
    window: int

    @property
    def written_size(self) -> tuple[int, int]:
        """(height, width) of the file: H.264 has even sides, so odd ones grow by one."""
        height, width = self.output_size
        return self.output_size if self.info.is_image else (height + height % 2, width + width % 2)


def plan_edit(info: VideoInfo, settings: EditSettings, facts: "ModelFacts") -> EditPlan:
    """Sizes for a source and a model. Raises UserError, with sizes that do, for one that the model cannot take."""
    if settings.height is not None and settings.width is not None:
        size, pixel_multiple = (settings.height, settings.width), facts.pixel_multiple
        if size[0] % pixel_multiple or size[1] % pixel_multiple:
            better = [nearest_multiple(length, pixel_multiple) for length in size]
            raise UserError(
                f"--height and --width must divide by {pixel_multiple}, got {size[0]}x{size[1]}; "
                f"use --height {better[0]} --width {better[1]}"
            )
    else:
        size = fit_size(info.height, info.width, settings.max_pixels or facts.native_area, facts.pixel_multiple)
    area = _edited_area(info, size, settings.fit)
    canvas = size if settings.output_size == "model" else area[2:]
    inside = (min(area[2], info.height) / area[2], min(area[3], info.width) / area[3])
    output_size = (round(canvas[0] * inside[0]), round(canvas[1] * inside[1]))
    smaller = size[0] * size[1] < canvas[0] * canvas[1]
    detail = settings.detail or ("source" if smaller else "none")
    return EditPlan(
        info=info,
        model_size=size,
        area=area,
        canvas=canvas,
        output_size=output_size,
        detail="none" if settings.output_size == "model" else detail,
        window=facts.native_num_frames,
    )


def _edited_area(info: VideoInfo, size: tuple[int, int], fit: str) -> tuple[int, int, int, int]:
    if fit == "resize":
        return 0, 0, info.height, info.width
    scales = (info.height / size[0], info.width / size[1])
    scale = min(scales) if fit == "crop" else max(scales)
    height, width = round(size[0] * scale), round(size[1] * scale)
    return (info.height - height) // 2, (info.width - width) // 2, height, width


def _cut(pixels: np.ndarray, area: tuple[int, int, int, int]) -> np.ndarray:
    """The area of a picture; beyond its border the nearest pixel is repeated."""
    if area == (0, 0, *pixels.shape[:2]):
        return pixels
    top, left, height, width = area
    rows = np.clip(np.arange(top, top + height), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left, left + width), 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `[.., H, W, 3]` -> float32 `[.., 3, H, W]` in 0..1."""
    return torch.from_numpy(pixels).movedim(-1, -3).float().div_(255.0)


def _to_pixels(picture: torch.Tensor) -> np.ndarray:
    """float `[.., 3, H, W]` in 0..1 -> uint8 `[.., H, W, 3]`."""
    return picture.mul(255.0).round_().to(torch.uint8).movedim(-3, -1).contiguous().numpy()


@dataclass(frozen=True, kw_only=True)
class ReadClip:
    """The source at the model's size: frames `[F, h, w, 3]`, their exact times and durations.

    Times count from the first frame, which the source shows at `begin`.
    """

    frames: np.ndarray
    begin: Fraction
    times: list[Fraction]
    durations: list[Fraction]


def read_at_model_size(reader: VideoReader, plan: EditPlan, settings: EditSettings) -> ReadClip:
    whole = plan.area == (0, 0, plan.info.height, plan.info.width)
    frames, times, durations = [], [], []
    for frame in reader.frames(settings.start, settings.num_frames, plan.model_size if whole else None):
        pixels = frame.pixels
        if not whole:
            pixels = _to_pixels(resize_plainly(_to_tensor(_cut(pixels, plan.area)), plan.model_size))
        frames.append(pixels)
        times.append(frame.time)
        durations.append(frame.duration)
    since_begin = [time - times[0] for time in times]
    return ReadClip(frames=np.stack(frames), begin=times[0], times=since_begin, durations=durations)


def window_starts(num_frames: int, window: int, overlap: int) -> list[int]:
    """Starts of windows of `window` frames that cover a clip, neighbours sharing at least `overlap` frames."""
    if num_frames <= window:
        return [0]
    count = -(-(num_frames - overlap) // (window - overlap))
    return [round(i * (num_frames - window) / (count - 1)) for i in range(count)]


def edit_frames(
    pipe: "SamaPipeline", frames: np.ndarray, prompt: str, settings: EditSettings, window: int, progress: Progress
) -> torch.Tensor:
    """Edit `[F, h, w, 3]` in windows of the model's length, cross-faded where they overlap.

    Every window starts from the same noise, so that what the source leaves open is decided alike.

    Returns:
        float32 `[F, 3, h, w]` in 0..1.
    """
    num_frames = len(frames)
    overlap = max(1, window // 8)
    starts = window_starts(num_frames, window, overlap)
    steps = settings.num_inference_steps or pipe.config.default_num_inference_steps
    total = torch.zeros(num_frames, 3, *frames.shape[1:3])
    weights = torch.zeros(num_frames, 1, 1, 1)
    for number, start in enumerate(starts):
        part = frames[start : start + window]

        def report(_pipe: object, step: int, _timestep: object, _tensors: dict, done: int = number * steps) -> dict:
            progress("editing", done + step + 1, steps * len(starts))
            return {}

        result = pipe(
            video=part,
            prompt=prompt,
            negative_prompt=settings.negative_prompt,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            flow_shift=settings.flow_shift,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            output_type="pt",
            callback_on_step_end=report,
        ).frames[0]
        fade = torch.minimum(torch.arange(1, len(part) + 1), torch.arange(len(part), 0, -1)).float()
        fade = fade.clamp(max=overlap).view(-1, 1, 1, 1)
        total[start : start + window] += result.cpu() * fade
        weights[start : start + window] += fade
    return total / weights


def sidecar_of(output: Path) -> Path:
    """Where the record of a result lies: `night.mp4.json` beside `night.mp4`."""
    return output.with_name(output.name + ".json")


def check_outputs(video: Path, output: Path, *others: Path | None, overwrite: bool) -> None:
    """That an edit may write its result, the record of it and other files.

    Raises:
        UserError: for the source itself, a folder that is none, a folder in the way, a file in the way unless
            `overwrite`, or a file in the record's place that is no such record, in any case.
    """
    if output.resolve() == video.resolve():
        raise UserError(f"{output} is the source itself; choose another --output")
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist; make it or choose another --output")
    for path in (output, *(other for other in others if other is not None)):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give a file name, or --manifest for many edits")
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; pass --overwrite to replace it or choose another --output")
    sidecar = sidecar_of(output)
    if sidecar.exists() and read_sidecar(output) is None:
        raise UserError(f"{sidecar} is not the record of an edit; move it away or choose another --output")


def read_sidecar(output: Path) -> dict | None:
    """The record of a result; None if there is none."""
    try:
        record = json.loads(sidecar_of(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and all(
        isinstance(record.get(key), dict) for key in ("source", "settings", "model")
    )
    return record if ours else None


def differences(record: dict, video: Path, prompt: str, settings: EditSettings, model: dict) -> list[str]:
    """What of `IDENTITY` would be another if this edit were made now; `settings` resolved, `model` a provenance."""
    now = _identity({"source": {"path": str(video)}, "prompt": prompt, "settings": asdict(settings), "model": model})
    before = _identity(record)
    return [name for name in now if now[name] != before.get(name)]


def _identity(record: dict) -> dict:
    # What is chosen by the plan when nothing was asked for follows from the rest.
    settings = {f"--{key.replace('_', '-')}": value for key, value in record["settings"].items() if key != "detail"}
    flat = {**record["model"], "prompt": record.get("prompt"), "source": record["source"].get("path")}
    return {**settings, **{name: flat.get(name) for name in IDENTITY if name != "settings"}}


def check_edit(reader: VideoReader, prompt: str, output: Path, settings: EditSettings, facts: "ModelFacts") -> EditPlan:
    """The sizes of an edit, if it can be made.

    Raises:
        UserError: for an empty instruction, a file name or sizes that cannot be, a start after the end.
    """
    if not prompt.strip():
        raise UserError('the instruction is empty; say what to change, for example "make it black and white"')
    check_output_suffix(output, reader.info.is_image)
    next(reader.frames(settings.start, 1))
    return plan_edit(reader.info, settings, facts)


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What one edit writes, aside."""

    result: Path
    compare: Path | None
    contact_sheet: Path | None


def edit_video(
    pipe: "SamaPipeline",
    video: str | Path,
    prompt: str,
    output: str | Path,
    settings: EditSettings | None = None,
    *,
    compare: Path | None = None,
    contact_sheet: Path | None = None,
    progress: Progress = lambda *_: None,
) -> dict:
    """Edit one file.

    Args:
        output: the result, replaced if it exists; beside it a JSON file, `sidecar_of(output)`, says what made it.
        settings: None for the model's own.
        compare: where to write source and result side by side, if anywhere.
        contact_sheet: where to write a picture of both at a few times, if anywhere.
        progress: called as (phase, done, of).

    Returns:
        What the JSON file holds.

    Raises:
        UserError: for bad input; nothing is left half-written.
    """
    video, output, settings = Path(video), Path(output), settings or EditSettings()
    reader = VideoReader(video)
    plan = check_edit(reader, prompt, output, settings, pipe.facts)
    check_outputs(video, output, compare, contact_sheet, overwrite=True)

    # 1. Read at the model's size
    clip = read_at_model_size(reader, plan, settings)
    notes = _damage_notes(reader, clip, settings)

    # 2. Edit
    edited = edit_frames(pipe, clip.frames, prompt, settings, plan.window, progress)

    # 3. Bring back to the output size and write
    sidecar = _sidecar(prompt, video, plan, clip, settings, pipe, notes)
    with contextlib.ExitStack() as stack:

        def aside(path: Path | None) -> Path | None:
            return None if path is None else stack.enter_context(written_aside(path))

        # Renamed in the reverse order: where the result lies, its record does.
        result = stack.enter_context(written_aside(output))
        files = _Files(result=result, compare=aside(compare), contact_sheet=aside(contact_sheet))
        aside_json = stack.enter_context(written_aside(sidecar_of(output)))
        _write_result(reader, plan, clip, edited, settings, files, progress)
        aside_json.write_text(json.dumps(sidecar, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return sidecar


def _damage_notes(reader: VideoReader, clip: ReadClip, settings: EditSettings) -> list[str]:
    announced = reader.info.num_frames
    wanted = min(announced, settings.num_frames or announced)
    if reader.damaged or (settings.start == 0 and len(clip.frames) < 0.98 * wanted):
        of = f" of {announced}" if announced else ""
        return [f"{reader.path.name} is damaged or cut off: {len(clip.frames)}{of} frames decoded and were edited"]
    return []


def _write_result(
    reader: VideoReader,
    plan: EditPlan,
    clip: ReadClip,
    edited: torch.Tensor,
    settings: EditSettings,
    files: _Files,
    progress: Progress,
) -> None:
    num_frames = len(clip.frames)
    upsampler = JointUpsampler(_to_tensor(clip.frames), edited) if plan.detail == "source" else None
    shown = {round(i * (num_frames - 1) / max(1, CONTACT_COLUMNS - 1)) for i in range(CONTACT_COLUMNS)}
    pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def results() -> Iterator[tuple[Frame, Frame]]:
        for index, frame in enumerate(reader.frames(settings.start, num_frames)):
            source, result = _bring_back(frame.pixels, plan, edited, index, upsampler)
            if index in shown:
                pairs.append((source, result))
            timing = {"time": clip.times[index], "duration": clip.durations[index]}
            yield Frame(result, **timing), Frame(np.concatenate([source, result], axis=1), **timing)
            progress("writing", index + 1, num_frames)

    if plan.info.is_image:
        result, side_by_side = next(results())
        write_image(files.result, result.pixels)
        if files.compare is not None:
            write_image(files.compare, side_by_side.pixels)
    else:
        _write_videos(results(), plan, clip, settings, reader, files)
    if files.contact_sheet is not None:
        write_image(files.contact_sheet, draw_contact_sheet(pairs))


def _write_videos(
    results: Iterator[tuple[Frame, Frame]],
    plan: EditPlan,
    clip: ReadClip,
    settings: EditSettings,
    reader: VideoReader,
    files: _Files,
) -> None:
    fps = plan.info.fps
    time_base = regular_time_base(clip.times, fps)
    height, width = plan.output_size
    sound = {"sound": reader.path, "sound_start": clip.begin} if plan.info.has_audio else {}
    with contextlib.ExitStack() as stack:

        def writer(path: Path, columns: int) -> VideoWriter:
            options = {"crf": settings.crf, "time_base": time_base, **sound}
            return stack.enter_context(VideoWriter(path, height, columns * width, fps, **options))

        single = writer(files.result, 1)
        double = writer(files.compare, 2) if files.compare is not None else None
        for result, side_by_side in results:
            single.write(result)
            if double is not None:
                double.write(side_by_side)


def _bring_back(
    pixels: np.ndarray, plan: EditPlan, edited: torch.Tensor, index: int, upsampler: JointUpsampler | None
) -> tuple[np.ndarray, np.ndarray]:
    """Source and result of one frame, both uint8 at the output size."""
    source = _to_tensor(_cut(pixels, plan.area))
    if upsampler is not None:
        result = upsampler.upsample(index, source)
    else:
        source, result = resize_plainly(source, plan.canvas), resize_plainly(edited[index], plan.canvas)
    height, width = plan.output_size
    top, left = (plan.canvas[0] - height) // 2, (plan.canvas[1] - width) // 2
    inside = (slice(None), slice(top, top + height), slice(left, left + width))
    return _to_pixels(source[inside]), _to_pixels(result[inside])


def draw_contact_sheet(pairs: list[tuple[np.ndarray, np.ndarray]], row_height: int = 180) -> np.ndarray:
    """Sources above results, times from left to right."""
    rows = []
    for which in (0, 1):
        pictures = [pair[which] for pair in pairs]
        height, width = pictures[0].shape[:2]
        size = (row_height, max(1, round(width * row_height / height)))
        rows.append(np.concatenate([_to_pixels(resize_plainly(_to_tensor(p), size)) for p in pictures], axis=1))
    return np.concatenate(rows)


def _sidecar(
    prompt: str,
    video: Path,
    plan: EditPlan,
    clip: ReadClip,
    settings: EditSettings,
    pipe: "SamaPipeline",
    notes: list[str],
) -> dict:
    resolved = replace(settings.resolved(pipe.facts), detail=plan.detail)
    return {
        "prompt": prompt,
        "source": {
            "path": str(video),
            "height": plan.info.height,
            "width": plan.info.width,
            "fps": str(plan.info.fps),
            "num_frames": len(clip.frames),
            "seconds": float(clip.times[-1] + clip.durations[-1]),
        },
        "model_size": {"height": plan.model_size[0], "width": plan.model_size[1]},
        "output_size": {"height": plan.written_size[0], "width": plan.written_size[1]},
        "windows": window_starts(len(clip.frames), plan.window, max(1, plan.window // 8)),
        "settings": asdict(resolved),
        "prompt_prefix": pipe.config.prompt_prefix,
        "scheduler": type(pipe.scheduler).__name__,
        "notes": notes,
        # A pipeline that was put together by hand says only what it can.
        "model": pipe.loaded_as.provenance
        if pipe.loaded_as
        else {"dtype": str(pipe.dtype), "device": str(pipe.device)},
        "versions": {
            "sama-video": _version("sama-video"),
            **{name: _version(name) for name in ("torch", "diffusers", "transformers", "av")},
            "python": sys.version.split()[0],
            "platform": platform.platform(),
        },
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
