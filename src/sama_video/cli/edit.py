"""`sama edit` and `sama demo`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..editing import EditSettings
    from ..pipelines.pipeline_sama import SamaPipeline


@dataclass(frozen=True)
class _Job:
    video: Path
    prompt: str
    output: Path


def _default_output(video: Path) -> Path:
    from ..video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    known = video.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    suffix = video.suffix if known else ".mp4"
    return video.with_name(f"{video.stem}_edited{suffix}")


def read_jobs(manifest: Path, folder: Path, column_map: list[str]) -> list[_Job]:
    """Jobs of a manifest; results go to `folder`, under the name in a row's `output` if it has one."""
    from ..data.manifest import is_url, parse_column_map, read_manifest

    jobs = []
    rows = read_manifest(manifest, column_map=parse_column_map(column_map), required=("src_video", "prompt"))
    for number, row in enumerate(rows, start=1):
        if row.src_video is None or row.prompt is None:
            raise UserError(f"row {number} of {manifest.name} lacks its video or its prompt; fill it in or remove it")
        if is_url(row.src_video):
            raise UserError(f"row {number} of {manifest.name} names {row.src_video}; fetch it and name the local file")
        video = Path(row.src_video)
        output = row.extra.get("output", f"{number:04d}_{_default_output(video).name}")
        jobs.append(_Job(video, row.prompt, folder / output))
    return jobs


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise UserError(f"{output} is a folder; give a file name, or --manifest for many edits")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; pass --overwrite to replace it or choose another --output")
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist; make it or choose another --output")


def edit(
    video: Annotated[Path | None, typer.Argument(help="Source video or image.", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Argument(help="What to change.", show_default=False)] = None,
    video_option: Annotated[Path | None, typer.Option("--video", help="The source, as an option.")] = None,
    prompt_option: Annotated[str | None, typer.Option("--prompt", help="The instruction, as an option.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Result; with --manifest a folder. Default: beside the source."),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV, JSON, JSONL or Parquet of videos and prompts.")] = None,
    column_map: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN of the manifest; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="Preset, local folder or hub id.")] = "nano",
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance leads away from.")] = None,
    num_inference_steps: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default: the model's own; 1 is none.")] = None,
    flow_shift: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    height: Annotated[int | None, typer.Option(help="Working height; default: the source's aspect ratio.")] = None,
    width: Annotated[int | None, typer.Option(help="Working width.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Working pixels a frame; default: the model's own.")] = None,
    start: Annotated[float, typer.Option(help="Seconds into the source.")] = 0.0,
    num_frames: Annotated[int | None, typer.Option(help="Edit so many frames; default: all.")] = None,
    fit: Annotated[str, typer.Option(help="resize, crop or pad to the working size.")] = "resize",
    output_size: Annotated[str, typer.Option(help="source or model.")] = "source",
    detail: Annotated[
        str | None, typer.Option(help="source brings back the source's resolution, none resizes plainly.")
    ] = None,
    crf: Annotated[int, typer.Option(help="x264 quality, lower is better.")] = 16,
    lora: Annotated[list[str] | None, typer.Option(help="PATH or PATH:SCALE; may be given again.")] = None,
    scheduler: Annotated[str, typer.Option(help="euler (the release's) or unipc.")] = "euler",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    offload: Annotated[str, typer.Option(help="none, model, sequential or group.")] = "none",
    vae_tiling: Annotated[bool, typer.Option(help="Encode and decode in tiles, for large frames.")] = False,
    compare: Annotated[bool, typer.Option(help="Also write source and result side by side.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing result.")] = False,
) -> None:
    """Edit a video: sama edit clip.mp4 "make it black and white"."""
    _check_choices(fit=fit, output_size=output_size, detail=detail)
    video, prompt = video or video_option, prompt if prompt is not None else prompt_option
    if manifest is not None:
        jobs = read_jobs(manifest, output or manifest.parent, column_map or [])
    elif video is None or prompt is None:
        raise UserError('give a video and an instruction: sama edit clip.mp4 "make it black and white"')
    else:
        jobs = [_Job(video, prompt, output or _default_output(video))]
    pending = _pending(jobs, overwrite, resume=manifest is not None)

    from ..editing import EditSettings
    from ..video import VideoReader

    settings = EditSettings(
        negative_prompt=negative_prompt,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        flow_shift=flow_shift,
        height=height,
        width=width,
        max_pixels=max_pixels,
        start=start,
        num_frames=num_frames,
        fit=fit,  # pyright: ignore[reportArgumentType] (checked above)
        output_size=output_size,  # pyright: ignore[reportArgumentType]
        detail=detail,  # pyright: ignore[reportArgumentType]
        crf=crf,
    )
    for job in pending:
        if not job.prompt.strip():
            raise UserError('the instruction is empty; say what to change, for example "make it black and white"')
        VideoReader(job.video)

    from ..pipelines.loading import load_pipeline

    pipe = load_pipeline(
        model, device=device, dtype=dtype, offload=offload, scheduler=scheduler, vae_tiling=vae_tiling, lora=lora
    )
    if dry_run:
        for job in pending:
            _describe(pipe, job, settings)
        return
    provenance = _provenance(model)
    for job in pending:
        _run(pipe, job, settings, provenance, compare)


def _check_choices(**values: str | None) -> None:
    choices = {"fit": ("resize", "crop", "pad"), "output_size": ("source", "model"), "detail": ("source", "none")}
    for name, value in values.items():
        if value is not None and value not in choices[name]:
            raise UserError(f"--{name.replace('_', '-')} must be one of {', '.join(choices[name])}, got {value!r}")


def _pending(jobs: list[_Job], overwrite: bool, resume: bool) -> list[_Job]:
    pending = [job for job in jobs if overwrite or not (resume and job.output.exists())]
    if len(pending) < len(jobs):
        typer.echo(f"{len(jobs) - len(pending)} of {len(jobs)} results exist already")
    for job in pending:
        _check_output(job.output, overwrite)
    return pending


def _describe(pipe: "SamaPipeline", job: _Job, settings: "EditSettings") -> None:
    from ..editing import plan_for
    from ..video import VideoReader

    info = VideoReader(job.video).info
    plan = plan_for(pipe, info, settings)
    frames = settings.num_frames or info.num_frames or "all"
    typer.echo(
        f"{job.video} ({info.width}x{info.height}, {float(info.fps):.3f} fps) -> {job.output} "
        f"({plan.output_size[1]}x{plan.output_size[0]}): {frames} frames, model at "
        f"{plan.model_size[1]}x{plan.model_size[0]} in windows of {plan.window}, detail {plan.detail}"
    )


class ProgressBar:
    """Phases of a piece of work as bars with the time left; silent where the output is no terminal."""

    def __enter__(self) -> "ProgressBar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.progress.start()
        self.tasks = {}
        return self

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase not in self.tasks:
            self.tasks[phase] = self.progress.add_task(phase, total=total)
        self.progress.update(self.tasks[phase], completed=done)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def _provenance(model: str) -> dict:
    """Name and hash of a model's weights, for the JSON file beside a result."""
    from ..pipelines.loading import weights_identity

    return {"name": model, "weights": weights_identity(model)}


def _run(
    pipe: "SamaPipeline", job: _Job, settings: "EditSettings", provenance: dict, compare: bool, sheet: bool = False
) -> list[Path]:
    from ..editing import edit_video

    beside = job.output.with_name(f"{job.output.stem}_compare{job.output.suffix}") if compare else None
    contact = job.output.with_name(f"{job.output.stem}_contact_sheet.png") if sheet else None
    started = time.monotonic()
    with ProgressBar() as progress:
        sidecar = edit_video(
            pipe,
            job.video,
            job.prompt,
            job.output,
            settings,
            compare=beside,
            contact_sheet=contact,
            provenance=provenance,
            progress=progress,
        )
    for note in sidecar["notes"]:
        typer.echo(f"note: {note}", err=True)
    frames = sidecar["source"]["num_frames"]
    typer.echo(f"{job.output} ({frames} frames in {time.monotonic() - started:.1f} s)")
    return [path for path in (job.output, beside, contact) if path is not None]


def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo")) -> None:
    """Edit the bundled clip with the shipped model and say where the results lie."""
    from ..editing import EditSettings
    from ..models.presets import ASSETS
    from ..pipelines.loading import load_pipeline

    out.mkdir(parents=True, exist_ok=True)
    job = _Job(ASSETS / "demo.mp4", "Make the scene look like it is night", out / "cup_night.mp4")
    written = _run(load_pipeline("nano"), job, EditSettings(), _provenance("nano"), compare=True, sheet=True)
    for label, path in zip(("result", "side by side", "contact sheet"), written, strict=True):
        typer.echo(f"{label}: {path.resolve()}")
