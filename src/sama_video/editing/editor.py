"""Editing files: read at the model's size, edit in windows, bring back to the source's size, write with its sound.

All of it is a stream: what is held at a time is bounded by a window, however long the clip is.

Shape legend: F frames, h w model size, H W the source's size; frames are uint8 `[F, h, w, 3]` unless said otherwise.
"""

import contextlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..media.detail import fits, resize_plainly
from ..media.tracks import Tracks
from ..system.files import written_aside
from ..system.platforms import give_back_memory
from ..system.workers import Progress, silent
from ..video import (
    ON_WHITE,
    Frame,
    Picture,
    Piece,
    VideoReader,
    VideoWriter,
    carry_tracks,
    check_times,
    regular_time_base,
    write_image,
)
from .plan import EditPlan, check_edit, check_outputs
from .preview import PREVIEW_INPUTS, ShowPreview, preview_of
from .record import FileState, sidecar_of
from .settings import EditSettings
from .source_stream import Survey, cropped, frames_at_model_size, survey, to_pixels, to_tensor
from .windows import Window, plan_windows

if TYPE_CHECKING:
    from ..pipelines.pipeline_sama import SamaPipeline

_CONTACT_COLUMNS = 6
_WINDOWS_BETWEEN_TRIMS = 4  # often enough to hold no more, seldom enough to cost no time
_DESCRIBING_TAGS = ("comment", "description", "synopsis")  # that all containers have


def edit_frames(
    pipe: "SamaPipeline",
    frames: Iterable[np.ndarray],
    prompt: str,
    settings: EditSettings,
    windows: Sequence[Window],
    progress: Progress = silent,
    strength: float = 1.0,
    show_preview: ShowPreview | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Edit a stream of frames `[h, w, 3]` window by window, cross-faded where two windows overlap.

    No more than two windows' frames are held. A window is given what the one before made of the frames that they share,
    and starts from the same noise, so that what the source leaves open is decided alike.

    Args:
        windows: which frames go through the model together; they cover all of `frames`.
        strength: how far an edit goes from its source, see `EditSettings`.
        show_preview: called after every step with small frames of what the window is heading for.

    Yields:
        Source and edit of one frame after the other, float32 `[3, h, w]` in 0..1.
    """
    frames, settings = iter(frames), settings.hastened(pipe.model_info)
    steps = settings.num_inference_steps or pipe.config.default_num_inference_steps
    held: list[np.ndarray] = []  # of the window's frames, those that were read already
    faded: torch.Tensor | None = None  # what the window before made of the frames that it shares with this one
    for number, window in enumerate(windows):
        held += itertools.islice(frames, window.stop - window.start - len(held))

        window_frames = np.stack(held)

        def report(
            _pipe: object, step: int, _timestep: object, tensors: dict, done: int = number * steps, source=window_frames
        ) -> dict:
            progress("editing", done + step + 1, steps * len(windows))
            if show_preview is not None:
                show_preview(preview_of(tensors, source))
            return {}

        # With one step the model could not see them, and a hard edge would be where they end.
        known = None if faded is None or steps == 1 else faded[: (len(faded) - 1) // 4 * 4 + 1]
        output = pipe(
            video=window_frames,
            known_frames=known,
            prompt=prompt,
            negative_prompt=settings.negative_prompt,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            flow_shift=settings.flow_shift,
            guidance_start=settings.guidance_start,
            guidance_end=settings.guidance_end,
            source_refresh=settings.source_refresh,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            output_type="pt",
            callback_on_step_end=report,
            callback_on_step_end_tensor_inputs=PREVIEW_INPUTS if show_preview is not None else [],
        )
        edited = output.frames[0].cpu()
        if faded is not None:
            weight = torch.arange(1, len(faded) + 1).view(-1, 1, 1, 1) / (len(faded) + 1)
            edited[: len(faded)] = torch.lerp(faded, edited[: len(faded)], weight)
        following = windows[number + 1] if number + 1 < len(windows) else None
        num_settled = len(held) - (0 if following is None else following.overlap)
        for source, edit in zip(held[:num_settled], edited, strict=False):
            original = to_tensor(source)
            yield original, edit if strength == 1 else torch.lerp(original, edit, strength).clamp_(0.0, 1.0)
        if number % _WINDOWS_BETWEEN_TRIMS == 0:
            give_back_memory()
        held, faded = held[num_settled:], edited[num_settled:] if num_settled < len(held) else None


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What one edit writes."""

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
    progress: Progress = silent,
    plan: EditPlan | None = None,
    command: str | None = None,
    show_preview: ShowPreview | None = None,
) -> dict:
    """Edit one file.

    Args:
        output: the result, replaced if it exists; beside it a JSON file, `sidecar_of(output)`, says what made it.
        settings: None for the model's own.
        compare: where to write source and result side by side, if anywhere.
        contact_sheet: where to write a picture of both at a few times, if anywhere.
        progress: called as (phase, done, of).
        plan: what `check_edit` said of this very edit; its source is not opened again.
        command: what was typed to ask for it, for the record.
        show_preview: called after every step, see `edit_frames`.

    Returns:
        What the JSON file holds.

    Raises:
        UserError: for bad input; nothing is left half-written.
    """
    video, output, settings = Path(video), Path(output), settings or EditSettings()
    if plan is None or plan.source is None or not plan.source.is_current:
        reader = VideoReader(video, settings.max_source_pixels)
        plan = check_edit(reader, prompt, output, settings, pipe.model_info, compare=compare is not None)
    else:
        reader = plan.source
    check_outputs(video, output, compare, contact_sheet, overwrite=True)

    started, date = time.monotonic(), datetime.now(UTC)

    # 1. See what is there; say what source and weights are, as they are now
    clip = survey(reader, plan, progress)
    seen = [note for note in reader.notes if note != ON_WHITE or not plan.keeps_alpha]
    notes = [*plan.notes, *seen, *_damage_notes(reader, clip, settings), *_model_notes(pipe)]
    source, model = _identities(video, pipe, progress)

    with contextlib.ExitStack() as stack:
        # 2. Make sure that the result can be written, with everything that goes with the pictures
        tracks = stack.enter_context(_other_tracks(reader, plan, clip, output))
        notes += tracks.notes

        # 3. Edit window by window, bring every frame back to the output size and write it
        windows = plan_windows(clip.num_frames, clip.cuts, plan.window)
        frames = frames_at_model_size(reader, plan, clip.num_frames)
        pairs = edit_frames(pipe, frames, prompt, settings, windows, progress, plan.strength, show_preview)
        sidecar = _sidecar(prompt, video, plan, clip, windows, pipe, notes, source, model)
        sidecar["others"] = [path.name for path in (compare, contact_sheet) if path is not None]
        sidecar |= {"date": date.isoformat(timespec="seconds"), "command": command}
        _describe_in(tracks, sidecar)

        def aside(path: Path | None) -> Path | None:
            return None if path is None else stack.enter_context(written_aside(path))

        # Renamed in the reverse order: where the result is, its record is.
        result = stack.enter_context(written_aside(output))
        files = _Files(result=result, compare=aside(compare), contact_sheet=aside(contact_sheet))
        aside_json = stack.enter_context(written_aside(sidecar_of(output)))
        _write_result(reader, plan, clip, pairs, files, tracks, progress)
        sidecar["seconds_taken"] = round(time.monotonic() - started, 3)
        # A kill between the renames leaves the new record beside the result before it.
        sidecar["result"] = {"size": result.stat().st_size}
        aside_json.write_text(json.dumps(sidecar, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return sidecar


def _identities(video: Path, pipe: "SamaPipeline", progress: Progress) -> tuple[FileState, dict]:
    """Of the source and of the model; a pipeline that was put together by hand says only what it can."""
    progress("hashing", 0, 2)
    source = FileState.of(video)
    progress("hashing", 1, 2)
    by_hand = {"dtype": str(pipe.dtype), "device": str(pipe.device)}
    model = pipe.loaded_as.provenance if pipe.loaded_as else by_hand
    progress("hashing", 2, 2)
    return source, model


def _model_notes(pipe: "SamaPipeline") -> list[str]:
    if pipe.transformer.has_learned_to_edit:
        return []
    return ["the model has not learned to edit: its weights are a text-to-video model's; train it with 'sama train'"]


def _damage_notes(reader: VideoReader, clip: Survey, settings: EditSettings) -> list[str]:
    announced = reader.info.num_frames
    if reader.damaged or (settings.start == 0 and not clip.goes_on and clip.num_frames < 0.98 * announced):
        of = f" of {announced}" if announced else ""
        return [f"{reader.path.name} is damaged or cut off: {clip.num_frames}{of} frames decoded and were edited"]
    return []


def _other_tracks(reader: VideoReader, plan: EditPlan, clip: Survey, output: Path) -> Tracks:
    """Sound, subtitles and the rest, tried out with the writer of the result."""
    if reader.origin is None:
        return Tracks()
    fps = plan.info.fps
    time_base = regular_time_base(clip.times, fps)
    picture = Picture(size=plan.output_size, fps=fps, time_base=time_base, coding=plan.coding)
    check_times(clip.times, picture.time_base)
    # Sound that outlasts the pictures stays, unless the clip was cut.
    to_the_end = not reader.damaged and not clip.goes_on
    piece = Piece(
        origin=reader.origin + clip.begin,
        end=None if to_the_end else clip.times[-1] + clip.durations[-1],
        from_start=clip.begin == 0,
    )
    return carry_tracks(reader.path, output, picture, piece)


def _write_result(
    reader: VideoReader,
    plan: EditPlan,
    clip: Survey,
    edits: Iterator[tuple[torch.Tensor, torch.Tensor]],
    files: _Files,
    tracks: Tracks,
    progress: Progress,
) -> None:
    num_frames = clip.num_frames
    enlarging = bring_back(edits, plan)
    shown = shown_on_sheet(num_frames)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def results() -> Iterator[tuple[Frame, Frame]]:
        full = reader.frames(plan.settings.start, num_frames)
        shown_at = (clip.begin + time for time in clip.times)
        weights = itertools.repeat(None, num_frames) if plan.region is None else plan.region.weights(shown_at)
        for index, (frame, enlarged, weight) in enumerate(zip(full, enlarging, weights, strict=True)):
            source, result, alpha = _at_output_size(frame, plan, enlarged, weight)
            if index in shown:
                pairs.append((source, result))
            both = np.concatenate([source, result], axis=1)
            alpha_of_both = None if alpha is None else np.concatenate([alpha, alpha], axis=1)
            timing = {"time": clip.times[index], "duration": clip.durations[index]}
            yield Frame(result, alpha=alpha, **timing), Frame(both, alpha=alpha_of_both, **timing)
            progress("writing", index + 1, num_frames)

    if plan.info.is_image:
        result, side_by_side = next(results())
        write_image(files.result, result.pixels, result.alpha, tracks.metadata.get("comment", ""))
        if files.compare is not None:
            write_image(files.compare, side_by_side.pixels, side_by_side.alpha)
    else:
        _write_videos(results(), plan, clip, files, tracks)
    if files.contact_sheet is not None:
        write_image(files.contact_sheet, draw_contact_sheet(list(zip(*pairs, strict=True))))


def _write_videos(
    results: Iterator[tuple[Frame, Frame]], plan: EditPlan, clip: Survey, files: _Files, tracks: Tracks
) -> None:
    fps = plan.info.fps
    time_base = regular_time_base(clip.times, fps)
    height, width = plan.output_size
    with contextlib.ExitStack() as stack:

        def writer(path: Path, columns: int) -> VideoWriter:
            options = {"coding": plan.coding, "time_base": time_base, "tracks": tracks}
            return stack.enter_context(VideoWriter(path, height, columns * width, fps, **options))

        single = writer(files.result, 1)
        double = writer(files.compare, 2) if files.compare is not None else None
        for result, side_by_side in results:
            single.write(result)
            if double is not None:
                double.write(side_by_side)


# From a frame of the source at the edited area's size, float32 `[3, H, W]` in 0..1, to the result at the canvas's.
Enlarged = Callable[[torch.Tensor], torch.Tensor]


def bring_back(edits: Iterator[tuple[torch.Tensor, torch.Tensor]], plan: EditPlan) -> Iterator[Enlarged]:
    """What brings each frame that `edit_frames` yields from the model's size to the result's, as the plan says."""
    return _with_detail(edits) if plan.detail == "source" else _plainly(edits, plan.canvas)


def _with_detail(edits: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Enlarged]:
    for fit in fits(edits):
        yield fit.upsample


def _plainly(edits: Iterator[tuple[torch.Tensor, torch.Tensor]], canvas: tuple[int, int]) -> Iterator[Enlarged]:
    for _, edit in edits:
        yield lambda _, edit=edit: resize_plainly(edit, canvas)


def _at_output_size(
    frame: Frame, plan: EditPlan, enlarged: Enlarged, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Source, result and opacity of one frame, uint8 at the output size.

    Args:
        weight: of the edit, `[H, W]` at the source's size; None for 1.
    """

    def on_canvas(plane: np.ndarray) -> torch.Tensor:
        return resize_plainly(torch.from_numpy(cropped(plane, plan.area)).float()[None], plan.canvas)

    source = to_tensor(cropped(frame.pixels, plan.area))
    result = enlarged(source)
    source = resize_plainly(source, plan.canvas)
    if weight is not None:
        result = torch.lerp(source, result, on_canvas(weight))
    alpha = on_canvas(frame.alpha / 255) if frame.alpha is not None and plan.keeps_alpha else None
    height, width = plan.output_size
    top, left = (plan.canvas[0] - height) // 2, (plan.canvas[1] - width) // 2
    inside = (slice(None), slice(top, top + height), slice(left, left + width))
    opacity = None if alpha is None else to_pixels(alpha[inside])[..., 0]
    return to_pixels(source[inside]), to_pixels(result[inside]), opacity


def shown_on_sheet(num_frames: int) -> set[int]:
    """Which of a clip's frames a contact sheet shows."""
    return {round(i * (num_frames - 1) / max(1, _CONTACT_COLUMNS - 1)) for i in range(_CONTACT_COLUMNS)}


def draw_contact_sheet(rows: Sequence[Sequence[np.ndarray]], row_height: int = 180) -> np.ndarray:
    """Clips one above the other, times from left to right; all in the aspect ratio of the last."""
    height, width = rows[-1][0].shape[:2]
    size = (row_height, max(1, round(width * row_height / height)))
    return np.concatenate(
        [np.concatenate([to_pixels(resize_plainly(to_tensor(p), size)) for p in row], axis=1) for row in rows]
    )


def _sidecar(
    prompt: str,
    video: Path,
    plan: EditPlan,
    clip: Survey,
    windows: Sequence[Window],
    pipe: "SamaPipeline",
    notes: list[str],
    source: FileState,
    model: dict,
) -> dict:
    resolved, mask = replace(plan.settings.resolved(pipe.model_info), detail=plan.detail), plan.settings.mask
    return {
        "prompt": prompt,
        "source": {
            "path": str(video),
            **asdict(source),
            "height": plan.info.height,
            "width": plan.info.width,
            "fps": str(plan.info.fps),
            "num_frames": clip.num_frames,
            "seconds": float(clip.times[-1] + clip.durations[-1]),
        },
        "model_size": {"height": plan.model_size[0], "width": plan.model_size[1]},
        "output_size": {"height": plan.written_size[0], "width": plan.written_size[1]},
        "strength": plan.strength,
        "mask": None if mask is None else {"path": mask, **asdict(FileState.of(Path(mask)))},
        "windows": [window.start for window in windows],
        "cuts": clip.cuts,
        "settings": asdict(resolved),
        "prompt_prefix": pipe.config.prompt_prefix,
        "scheduler": type(pipe.scheduler).__name__,
        "notes": notes,
        "model": model,
        "versions": {
            "sama-video": _version("sama-video"),
            **{name: _version(name) for name in ("torch", "diffusers", "transformers", "av")},
            "python": sys.version.split()[0],
            "platform": platform.platform(),
        },
    }


def _describe_in(tracks: Tracks, sidecar: dict) -> None:
    """What made a result, in its file's own metadata, where the source leaves room: nothing that changes if it is made
    again."""
    usual, local = EditSettings(), ("mask", "max_source_pixels")  # of this machine, not of the edit
    asked = {
        name: value
        for name, value in sidecar["settings"].items()
        if value != getattr(usual, name) and name not in local
    }
    model = Path(sidecar["model"].get("name", "")).name
    made = {"prompt": sidecar["prompt"], "model": model, "settings": asked, "strength": sidecar["strength"]}
    made |= {"source_sha256": sidecar["source"]["sha256"], "sama-video": sidecar["versions"]["sama-video"]}
    free = next((tag for tag in _DESCRIBING_TAGS if tag not in tracks.metadata), None)
    if free is not None:
        tracks.metadata[free] = json.dumps({"sama": made}, ensure_ascii=False)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
