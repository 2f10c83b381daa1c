"""What an edit will do, decided and checked before a model is loaded. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..pipelines.selection import ModelFacts
from ..shapes import fit_size, nearest_multiple
from ..video import VideoInfo, VideoReader, check_output_suffix, check_picture_size
from .record import read_sidecar, sidecar_of
from .settings import EditSettings


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


def plan_edit(info: VideoInfo, settings: EditSettings, facts: ModelFacts) -> EditPlan:
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


def window_starts(num_frames: int, window: int, overlap: int) -> list[int]:
    """Starts of windows of `window` frames that cover a clip, neighbours sharing at least `overlap` frames."""
    if num_frames <= window:
        return [0]
    count = -(-(num_frames - overlap) // (window - overlap))
    return [round(i * (num_frames - window) / (count - 1)) for i in range(count)]


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


def check_edit(reader: VideoReader, prompt: str, output: Path, settings: EditSettings, facts: ModelFacts) -> EditPlan:
    """The sizes of an edit, if it can be made.

    Raises:
        UserError: for an empty instruction, a file name or sizes that cannot be, a start after the end.
    """
    if not prompt.strip():
        raise UserError('the instruction is empty; say what to change, for example "make it black and white"')
    check_output_suffix(output, reader.info.is_image)
    next(reader.frames(settings.start, 1))
    plan = plan_edit(reader.info, settings, facts)
    if not reader.info.is_image:
        check_picture_size(*plan.output_size)
    return plan
