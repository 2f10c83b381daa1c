"""What an edit will do, decided and checked before a model is loaded. Imports no torch."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..models.shapes import fit_size, nearest_multiple, release_size
from ..pipelines.scope import degree_asked, scope_note
from ..pipelines.selection import ModelInfo
from ..synth.reading import is_weak
from ..system.errors import UserError
from ..system.files import longest_name
from ..video import PictureCoding, VideoInfo, VideoReader, check_output_suffix, holds_alpha
from .record import read_sidecar, sidecar_of
from .settings import STRONG_STRENGTH, WEAK_STRENGTH, EditSettings

if TYPE_CHECKING:
    from .region import Region


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """What one edit will do.

    Args:
        info: of the source.
        settings: of the edit.
        model_size: (height, width) that the transformer works at.
        area: (top, left, height, width) of the source that is edited; negative or larger than the source with "pad".
        canvas: (height, width) at which results are made: the edited area's, or the model's with `output_size="model"`.
        output_size: (height, width) of the result: the canvas without borders added by "pad".
        detail: whether the source's own resolution comes back.
        window: frames per pass of the model (4k+1).
        strength: how far the result goes from the source.
        region: where the source is edited; None for everywhere.
        coding: of the result's pictures.
        keeps_alpha: the result says how opaque it is.
        notes: what the user should know before the model runs.
        source: opened and checked; None for a plan of sizes alone.
    """

    info: VideoInfo
    settings: EditSettings
    model_size: tuple[int, int]
    area: tuple[int, int, int, int]
    canvas: tuple[int, int]
    output_size: tuple[int, int]
    detail: Literal["source", "none"]
    window: int
    strength: float = 1.0
    region: "Region | None" = None
    coding: PictureCoding = field(default_factory=PictureCoding)
    keeps_alpha: bool = False
    notes: tuple[str, ...] = ()
    source: VideoReader | None = None

    @property
    def written_size(self) -> tuple[int, int]:
        """(height, width) of the file: where a codec has even sides alone, odd ones grow by one."""
        (height, width), multiple = self.output_size, 1 if self.info.is_image else self.coding.multiple
        return height + -height % multiple, width + -width % multiple


def plan_edit(info: VideoInfo, settings: EditSettings, model: ModelInfo) -> EditPlan:
    """Sizes for a source and a model. Raises UserError, with sizes that do, for one that the model cannot take."""
    if settings.height is not None and settings.width is not None:
        size, pixel_multiple = (settings.height, settings.width), model.pixel_multiple
        if size[0] % pixel_multiple or size[1] % pixel_multiple:
            better = [nearest_multiple(length, pixel_multiple) for length in size]
            raise UserError(
                f"`height` and `width` must divide by {pixel_multiple}, got {size[0]}x{size[1]}; "
                f"use `height` {better[0]} `width` {better[1]}"
            )
    elif settings.fit == "release":
        size = release_size(info.height, info.width)
    else:
        size = fit_size(info.height, info.width, settings.max_pixels or model.native_area, model.pixel_multiple)
    area = _edited_area(info, size, settings.fit)
    canvas = size if settings.output_size == "model" else area[2:]
    inside = (min(area[2], info.height) / area[2], min(area[3], info.width) / area[3])
    output_size = (round(canvas[0] * inside[0]), round(canvas[1] * inside[1]))
    smaller = size[0] * size[1] < canvas[0] * canvas[1]
    detail = settings.detail or ("source" if smaller else "none")
    return EditPlan(
        info=info,
        settings=settings,
        model_size=size,
        area=area,
        canvas=canvas,
        output_size=output_size,
        detail="none" if settings.output_size == "model" else detail,
        window=model.native_num_frames,
    )


def _edited_area(info: VideoInfo, size: tuple[int, int], fit: str) -> tuple[int, int, int, int]:
    if fit == "resize":
        return 0, 0, info.height, info.width
    if fit == "release":
        # Whole pixels of the source, the rest cut off, before anything is resized.
        height = min(info.height, int(info.width * size[0] / size[1]))
        width = min(info.width, int(info.height * size[1] / size[0]))
        return (info.height - height) // 2, (info.width - width) // 2, height, width
    scales = (info.height / size[0], info.width / size[1])
    scale = min(scales) if fit == "crop" else max(scales)
    height, width = round(size[0] * scale), round(size[1] * scale)
    return (info.height - height) // 2, (info.width - width) // 2, height, width


def check_outputs(video: Path, output: Path, *others: Path | None, overwrite: bool) -> None:
    """That an edit may write its result, the record of it and other files.

    Raises:
        UserError: for the source itself under any name, a folder that is none, a name that is too long, a folder in
            the way, a file in the way unless `overwrite`, or a file in the record's place that is no such record, in
            any case.
    """
    written = (output, *(other for other in others if other is not None))
    for path in written:
        if _is_same_file(path, video):
            raise UserError(f"{path} is the source itself; choose another `output`")
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist; make it or choose another `output`")
    check_names(output, *others)
    for path in written:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give a file name, or a `manifest` for many edits")
        if path.exists() and not overwrite and not _left_by_a_kill(path, output):
            raise UserError(f"{path} exists; pass `overwrite` to replace it or choose another `output`")
    sidecar = sidecar_of(output)
    if sidecar.exists() and read_sidecar(output) is None:
        raise UserError(f"{sidecar} is not the record of an edit; move it away or choose another `output`")


def check_names(output: Path, *others: Path | None) -> None:
    """Raises UserError for names that the file system cannot hold."""
    there = next((folder for folder in output.parents if folder.is_dir()), Path())
    longest = longest_name(there)
    for path in (sidecar_of(output), *(other for other in others if other is not None)):
        excess = len(os.fsencode(path.name)) - longest
        if excess > 0:
            raise UserError(
                f"the name {path.name} is {excess} bytes too long for its folder; choose a shorter `output`"
            )


def _is_same_file(path: Path, other: Path) -> bool:
    """Also by a link, or in other letters on a disk that takes them for the same."""
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except OSError:
        return False


def _left_by_a_kill(path: Path, output: Path) -> bool:
    """An edit puts its record in place first, then other files that the record names, then the result."""
    record = None if output.exists() else read_sidecar(output)
    return record is not None and path.name in (record.get("others") or [])


def check_edit(
    reader: VideoReader,
    prompt: str,
    output: Path,
    settings: EditSettings,
    model: ModelInfo,
    *,
    compare: bool = False,
) -> EditPlan:
    """The plan of an edit, if it can be made; with `compare`, also of a file twice as wide.

    Raises:
        UserError: for an empty instruction, a file name or sizes that cannot be, a start after the end.
    """
    if not prompt.strip():
        raise UserError('the instruction is empty; say what to change, for example "make it black and white"')
    check_output_suffix(output, reader.info.is_image)
    next(reader.frames(settings.start, 1))
    plan = plan_edit(reader.info, settings, model)
    if not reader.info.is_image:
        height, width = plan.output_size
        coding = PictureCoding.of(output, settings.codec, settings.crf, has_alpha=reader.info.has_alpha)
        coding.check_size(height, 2 * width if compare else width)
        plan = replace(plan, coding=coding, keeps_alpha=coding.alpha)
    elif settings.codec is not None:
        raise UserError("`codec` is for videos, and the source is a picture; leave it out")
    else:
        plan = replace(plan, keeps_alpha=reader.info.has_alpha and holds_alpha(output))
    if settings.mask is not None or settings.box is not None:
        from .region import Region

        plan = replace(plan, region=Region(settings, reader.info))
    trained_for = model.trained_for or {}
    strength, notes = settings.strength, [scope_note(prompt.strip(), trained_for)]
    if strength is None and (words := degree_asked(prompt, trained_for)) is not None:
        strength = WEAK_STRENGTH if is_weak(words) else STRONG_STRENGTH
        notes.append(f'"{words}" is taken for a strength of {strength:g}')
    strength = 1.0 if strength is None else strength
    return replace(plan, strength=strength, notes=tuple(filter(None, notes)), source=reader)


def seeded(output: Path, settings: EditSettings, count: int) -> list[tuple[Path, EditSettings]]:
    """Where the results of `count` seeds go, from the settings' own on: `night_seed3.mp4`; and their settings."""
    ways = [replace(settings, seed=settings.seed + index) for index in range(count)]
    return [(output.with_name(f"{output.stem}_seed{way.seed}{output.suffix}"), way) for way in ways]


def seeds_sheet_of(output: Path) -> Path:
    """Where the sheet of an edit with several seeds is: `night_seeds.png` for `night.mp4`."""
    return output.with_name(f"{output.stem}_seeds.png")
