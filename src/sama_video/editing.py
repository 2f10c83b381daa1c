"""Editing files: read at the model's size, edit in windows, bring back to the source's size, write with its sound.

Shape legend: F frames, h w model size, H W the source's size; frames are uint8 `[F, h, w, 3]` unless said otherwise.
"""

import contextlib
import json
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
    from .pipelines.pipeline_sama import SamaPipeline

Progress = Callable[[str, int, int], None]
CONTACT_COLUMNS = 6


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
        for name, lowest in (("num_inference_steps", 1), ("height", 1), ("width", 1), ("max_pixels", 1), ("start", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UserError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")
        if self.num_frames is not None and self.num_frames < 1:
            raise UserError(f"--num-frames must be at least 1, got {self.num_frames}")
        if not 0 <= self.crf <= 51:
            raise UserError(f"--crf must lie in 0..51, got {self.crf}")
        if (self.height is None) != (self.width is None):
            raise UserError("give both --height and --width, or neither")


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


def plan_edit(
    info: VideoInfo, settings: EditSettings, *, native_area: int, native_num_frames: int, pixel_multiple: int
) -> EditPlan:
    """Sizes for a source and a model. Raises UserError, with sizes that do, for one that the model cannot take."""
    if settings.height is not None and settings.width is not None:
        size = (settings.height, settings.width)
        if size[0] % pixel_multiple or size[1] % pixel_multiple:
            better = [nearest_multiple(length, pixel_multiple) for length in size]
            raise UserError(
                f"--height and --width must divide by {pixel_multiple}, got {size[0]}x{size[1]}; "
                f"use --height {better[0]} --width {better[1]}"
            )
    else:
        size = fit_size(info.height, info.width, settings.max_pixels or native_area, pixel_multiple)
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
        window=native_num_frames,
    )


def plan_for(pipe: "SamaPipeline", info: VideoInfo, settings: EditSettings) -> EditPlan:
    """`plan_edit` for the model of a pipeline."""
    return plan_edit(
        info,
        settings,
        native_area=pipe.config.native_area,
        native_num_frames=pipe.config.native_num_frames,
        pixel_multiple=pipe.pixel_multiple,
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


def edit_video(
    pipe: "SamaPipeline",
    video: Path,
    prompt: str,
    output: Path,
    settings: EditSettings,
    *,
    compare: Path | None = None,
    contact_sheet: Path | None = None,
    provenance: dict | None = None,
    progress: Progress = lambda *_: None,
) -> dict:
    """Edit one file.

    Args:
        output: the result; beside it a JSON file of the same stem holds everything that made it.
        compare: where to write source and result side by side, if anywhere.
        contact_sheet: where to write a picture of both at a few times, if anywhere.
        provenance: about the model, for the JSON file.
        progress: called as (phase, done, of).

    Returns:
        What the JSON file holds.

    Raises:
        UserError: for bad input; nothing is left half-written.
    """
    if not prompt.strip():
        raise UserError('the instruction is empty; say what to change, for example "make it black and white"')
    reader = VideoReader(video)
    check_output_suffix(output, reader.info.is_image)
    plan = plan_for(pipe, reader.info, settings)

    # 1. Read at the model's size
    clip = read_at_model_size(reader, plan, settings)
    notes = _damage_notes(reader, clip, settings)

    # 2. Edit
    edited = edit_frames(pipe, clip.frames, prompt, settings, plan.window, progress)

    # 3. Bring back to the output size and write
    sidecar = _sidecar(prompt, video, plan, clip, settings, pipe, notes, provenance or {})
    with written_aside(output.with_suffix(".json")) as aside_json:
        _write_result(reader, plan, clip, edited, settings, output, compare, contact_sheet, progress)
        aside_json.write_text(json.dumps(sidecar, indent=2, default=str) + "\n")
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
    output: Path,
    compare: Path | None,
    contact_sheet: Path | None,
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
        with written_aside(output) as aside:
            write_image(aside, result.pixels)
        if compare is not None:
            with written_aside(compare) as aside:
                write_image(aside, side_by_side.pixels)
    else:
        _write_videos(results(), plan, clip, settings, reader, output, compare)
    if contact_sheet is not None:
        with written_aside(contact_sheet) as aside:
            write_image(aside, draw_contact_sheet(pairs))


def _write_videos(
    results: Iterator[tuple[Frame, Frame]],
    plan: EditPlan,
    clip: ReadClip,
    settings: EditSettings,
    reader: VideoReader,
    output: Path,
    compare: Path | None,
) -> None:
    fps = plan.info.fps
    time_base = regular_time_base(clip.times, fps)
    height, width = plan.output_size
    sound = {"sound": reader.path, "sound_start": clip.begin} if plan.info.has_audio else {}
    with contextlib.ExitStack() as stack:

        def writer(path: Path, columns: int) -> VideoWriter:
            aside = stack.enter_context(written_aside(path))
            options = {"crf": settings.crf, "time_base": time_base, **sound}
            return stack.enter_context(VideoWriter(aside, height, columns * width, fps, **options))

        single = writer(output, 1)
        double = writer(compare, 2) if compare is not None else None
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
    provenance: dict,
) -> dict:
    resolved = replace(
        settings,
        num_inference_steps=settings.num_inference_steps or pipe.config.default_num_inference_steps,
        guidance_scale=pipe.config.default_guidance_scale
        if settings.guidance_scale is None
        else settings.guidance_scale,
        flow_shift=pipe.config.default_flow_shift if settings.flow_shift is None else settings.flow_shift,
        detail=plan.detail,
    )
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
        "output_size": {"height": plan.output_size[0], "width": plan.output_size[1]},
        "windows": window_starts(len(clip.frames), plan.window, max(1, plan.window // 8)),
        "settings": asdict(resolved),
        "prompt_prefix": pipe.config.prompt_prefix,
        "scheduler": type(pipe.scheduler).__name__,
        "notes": notes,
        "model": provenance,
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
