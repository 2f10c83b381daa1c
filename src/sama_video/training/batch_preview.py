"""What a run's first batches hold, as a sheet or a page to look at: after pretext tasks, cut to their buckets.

The samples come as training gets them, from the schedule of the first epoch; no model is loaded. What a step adds to
them (noise, dropped prompts and sources) is not shown.
"""

import base64
import html
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from ..data.loader import BatchLoader, load_sample
from ..data.samples import Sample, collate
from ..models.shapes import PATCH
from ..pipelines.pipeline_sama import clean_prompt
from ..pipelines.selection import find_model
from ..system.errors import UserError
from ..system.files import written_aside
from .config import ModelConfig, TrainConfig
from .contradictions import check_data
from .estimate import find_preset
from .logs.sheet import draw_sheet, write_side_by_side
from .mixture import batch_config, build_mixture

SUFFIXES = (".png", ".html")
TIMES = 5  # frames of a clip on a sheet: cube inpainting blackens three in ten
_STYLE = """body { font: 15px system-ui, sans-serif; margin: 2em; max-width: 72em }
figure { display: inline-block; margin: 0 1.5em 1.5em 0; max-width: 34em; vertical-align: top }
figcaption small { color: #666 }
video, img { width: 34em; max-width: 100% }"""


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """A sample of a batch in pixels.

    Args:
        batch: what its samples share: number, size, frames, how many there are.
        sample: with `prompt` as the text encoder gets it.
    """

    batch: str
    sample: Sample

    @property
    def label(self) -> str:
        """What it is, in a line."""
        return f"{self.sample.task}: {self.sample.name}"

    @property
    def roles(self) -> str:
        """What its clips are to the model, from left to right."""
        return "target" if self.sample.source is None else "source, target"


def preview_batches(stages: Sequence[TrainConfig], out: Path, *, num_batches: int = 6, num_samples: int = 2) -> int:
    """Write the first batches of every stage; returns the number of samples shown.

    Args:
        out: .png for a sheet, .html for a page whose clips play.
        num_batches: of the first epoch; num_samples: at most so many of each.

    Raises:
        UserError: for another suffix, numbers below 1, and data that a training would refuse.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"cannot draw {out.name}; use one of {', '.join(SUFFIXES)}")
    if num_batches < 1 or num_samples < 1:
        raise UserError("a preview shows one batch, and one sample of it, or more")
    shown, init = [], stages[0].model.init
    for stage in stages:
        init = init if stage.model.init == "previous" else stage.model.init
        shown += first_samples(stage.started_from(init), num_batches, num_samples)
    with written_aside(out) as aside:
        if out.suffix == ".png":
            rows = [(f"{one.batch}\n{one.label}\n{one.sample.prompt}", _clips(one.sample)) for one in shown]
            draw_sheet(rows, ("source", "target"), times=TIMES, from_right=True).save(aside, format="png")
        else:
            aside.write_text(_page(shown), encoding="utf-8")
    return len(shown)


def first_samples(run: TrainConfig, num_batches: int, num_samples: int) -> Iterator[ShownSample]:
    """Of the first epoch of a stage, in their order; arguments and errors as of `preview_batches`."""
    pixel_multiple, prefix = _of_model(run.model)
    with tempfile.TemporaryDirectory(prefix="sama_") as folder:
        datasets = build_mixture(run.data, Path(folder) / run.name)
        config = batch_config(run.data, pixel_multiple, run.loop.seed)
        loader = BatchLoader(datasets, config)
        check_data(run, loader.tables)
        schedule = loader.schedule()
        for number in range(min(num_batches, len(schedule))):
            scheduled = schedule[number]
            samples = [load_sample(datasets[one.dataset], one, config) for one in scheduled.samples[:num_samples]]
            bucket, of = scheduled.bucket, len(scheduled.samples)
            batch = collate(samples, bucket=bucket, num_global=of, is_filler=False)
            source = "no source" if bucket.source_frames is None else f"source of {_frames(bucket.source_frames)}"
            title = (
                f"{run.name}, batch {number + 1} of {len(schedule):,}: {of} samples of {bucket.width}x{bucket.height}, "
                f"target of {_frames(bucket.num_frames)}, {source}"
            )
            for sample in batch.select(range(len(samples))):
                yield ShownSample(batch=title, sample=replace(sample, prompt=clean_prompt(prefix + sample.prompt)))


def _frames(count: int) -> str:
    return f"{count} frame{'' if count == 1 else 's'}"


def _of_model(model: ModelConfig) -> tuple[int, str]:
    """What sides divide by, and what comes before prompts: of the folder where a run begins, or of its preset.

    Raises:
        UserError: if neither says.
    """
    if Path(model.init).is_dir():
        info = find_model(model.init).info()
        return info.pixel_multiple, info.prompt_prefix
    preset = find_preset(model)
    return PATCH[1] * preset.spatial_factor, preset.settings.prompt_prefix


def _clips(sample: Sample) -> list[np.ndarray]:
    return [clip.numpy() for clip in (sample.source, sample.target) if clip is not None]


def _page(shown: Sequence[ShownSample]) -> str:
    """One file, with its clips inside."""
    parts = []
    with tempfile.TemporaryDirectory(prefix="sama_") as folder:
        for batch, group in groupby(shown, key=lambda one: one.batch):
            parts.append(f"<h2>{html.escape(batch)}</h2>")
            for one in group:
                file = write_side_by_side(Path(folder) / "clip", _clips(one.sample))
                content = base64.b64encode(file.read_bytes()).decode()
                clip = (
                    f'<img alt="" src="data:image/png;base64,{content}">'
                    if file.suffix == ".png"
                    else f'<video controls autoplay loop muted src="data:video/mp4;base64,{content}"></video>'
                )
                parts.append(
                    f"<figure>{clip}<figcaption>{html.escape(one.sample.prompt)}<br>"
                    f"<small>{html.escape(one.label)} ({one.roles})</small></figcaption></figure>"
                )
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Batches</title>\n'
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )
