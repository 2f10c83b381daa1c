"""One edit with several seeds: their results, and a sheet on which to choose."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.files import written_aside
from ..system.workers import Progress, silent
from ..video import VideoReader, write_image
from .editor import draw_contact_sheet, edit_video, shown_on_sheet
from .plan import EditPlan, check_edit, seeded, seeds_sheet_of
from .settings import EditSettings
from .source_stream import cropped

if TYPE_CHECKING:
    from ..pipelines.pipeline_sama import SamaPipeline


def edit_seeds(
    pipe: "SamaPipeline",
    video: str | Path,
    prompt: str,
    output: str | Path,
    settings: EditSettings | None = None,
    *,
    count: int = 4,
    progress: Progress = silent,
) -> list[Path]:
    """Edit one file with several seeds, see `edit_video`.

    Args:
        output: names the results and the sheet, see `seeded` and `seeds_sheet_of`.

    Returns:
        The results.
    """
    output, settings = Path(output), settings or EditSettings()
    plan = check_edit(VideoReader(video, settings.max_source_pixels), prompt, output, settings, pipe.model_info)
    results = []
    for path, way in seeded(output, settings, count):
        edit_video(pipe, video, prompt, path, way, progress=progress, plan=replace(plan, settings=way))
        results.append(path)
    write_seeds_sheet(plan, results, seeds_sheet_of(output))
    return results


def write_seeds_sheet(plan: EditPlan, results: Sequence[Path], sheet: Path) -> None:
    """The source above the results of several seeds, times from left to right."""
    readers = [VideoReader(result) for result in results]
    num_frames = sum(1 for _ in readers[0].times())
    shown = shown_on_sheet(num_frames)
    assert plan.source is not None
    source = plan.source.frames(plan.settings.start, num_frames)
    rows = [[cropped(frame.pixels, plan.area) for index, frame in enumerate(source) if index in shown]]
    rows += [[frame.pixels for index, frame in enumerate(reader.frames()) if index in shown] for reader in readers]
    with written_aside(sheet) as aside:
        write_image(aside, draw_contact_sheet(rows))
