"""`sama edit` and `sama demo`."""

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..files import make_folder
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..editing import EditPlan, EditSettings
    from ..pipelines.pipeline_sama import SamaPipeline
    from ..pipelines.selection import Loading, ModelFacts


@dataclass(frozen=True)
class _Job:
    video: Path
    prompt: str
    output: Path

    @property
    def compare(self) -> Path:
        return self.output.with_name(f"{self.output.stem}_compare{self.output.suffix}")


def _default_output(video: Path) -> Path:
    from ..video import result_suffix

    suffix = result_suffix(video)
    return video.parent / f"{video.stem}_edited{suffix}"


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
    for output, count in Counter(job.output.resolve() for job in jobs).items():
        if count > 1:
            raise UserError(f"{count} rows of {manifest.name} have the output {output.name}; give each its own")
    return jobs


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
    max_source_pixels: Annotated[
        int | None, typer.Option(help="Refuse sources with more pixels a frame; default: 67108864.")
    ] = None,
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
    _check_given_once(video, prompt, video_option, prompt_option, manifest)

    from ..editing import EditSettings
    from ..pipelines.selection import Loading, read_facts

    settings = EditSettings(
        negative_prompt=negative_prompt,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        flow_shift=flow_shift,
        height=height,
        width=width,
        max_pixels=max_pixels,
        max_source_pixels=max_source_pixels,
        start=start,
        num_frames=num_frames,
        fit=fit,  # pyright: ignore[reportArgumentType] (checked by the class)
        output_size=output_size,  # pyright: ignore[reportArgumentType]
        detail=detail,  # pyright: ignore[reportArgumentType]
        crf=crf,
    )
    loading = Loading(
        model=model,
        device=device,
        dtype=dtype,
        offload=offload,
        scheduler=scheduler,
        vae_tiling=vae_tiling,
        lora=lora,
    )
    video, prompt = video or video_option, prompt if prompt is not None else prompt_option
    if manifest is not None:
        jobs = read_jobs(manifest, output or manifest.parent, column_map or [])
    elif video is None or prompt is None:
        raise UserError('give a video and an instruction: sama edit clip.mp4 "make it black and white"')
    else:
        jobs = [_Job(video, prompt, output or _default_output(video))]
    facts = read_facts(model)
    pending = jobs
    if manifest is not None and not overwrite:
        pending = [job for job in jobs if not _is_done(job, settings, loading, facts)]
        if len(pending) < len(jobs):
            typer.echo(f"{len(jobs) - len(pending)} of {len(jobs)} results exist already")
    plans = [_checked(job, settings, facts, compare, overwrite, makes_folder=manifest is not None) for job in pending]
    if dry_run:
        for job, plan in zip(pending, plans, strict=True):
            _describe(job, plan, settings)
    elif pending:
        for job in pending if manifest is not None else []:
            make_folder(job.output.parent)
        from ..pipelines.loading import load_pipeline

        pipe = load_pipeline(**asdict(loading))
        for job in pending:
            _run(pipe, job, settings, compare)


def _check_given_once(
    video: Path | None, prompt: str | None, video_option: Path | None, prompt_option: str | None, manifest: Path | None
) -> None:
    given = {"VIDEO": video, "--video": video_option, "PROMPT": prompt, "--prompt": prompt_option}
    names = [name for name, value in given.items() if value is not None]
    for one, other in (("VIDEO", "--video"), ("PROMPT", "--prompt")):
        if one in names and other in names:
            raise UserError(f"{one} and {other} are the same; give one of them")
    if manifest is not None and names:
        raise UserError(f"{names[0]} and --manifest do not go together: the manifest names videos and prompts")


def _is_done(job: _Job, settings: "EditSettings", loading: "Loading", facts: "ModelFacts") -> bool:
    """Whether the result is there already; UserError if it is there but was not made from the same."""
    from ..editing import differences, read_sidecar

    if not job.output.exists():
        return False
    record = read_sidecar(job.output)
    if record is None:
        raise UserError(f"{job.output} exists without the record of an edit; move it away or pass --overwrite")
    changed = differences(record, job.video, job.prompt, settings.resolved(facts), loading.provenance)
    if changed:
        raise UserError(
            f"{job.output} exists and was made with another {', '.join(changed)}; "
            "pass --overwrite to make all results anew, or choose another --output"
        )
    return True


def _checked(
    job: _Job, settings: "EditSettings", facts: "ModelFacts", compare: bool, overwrite: bool, makes_folder: bool
) -> "EditPlan":
    """All that can be known to fail before the model is loaded."""
    from ..editing import check_edit, check_outputs
    from ..video import VideoReader

    reader = VideoReader(job.video, settings.max_source_pixels)
    plan = check_edit(reader, job.prompt, job.output, settings, facts)
    if job.output.parent.is_dir() or not makes_folder:
        check_outputs(job.video, job.output, job.compare if compare else None, overwrite=overwrite)
    return plan


def _describe(job: _Job, plan: "EditPlan", settings: "EditSettings") -> None:
    info = plan.info
    frames = settings.num_frames or info.num_frames or "all"
    typer.echo(
        f"{job.video} ({info.width}x{info.height}, {float(info.fps):.3f} fps) -> {job.output} "
        f"({plan.written_size[1]}x{plan.written_size[0]}): {frames} frames, model at "
        f"{plan.model_size[1]}x{plan.model_size[0]} in windows of {plan.window}, detail {plan.detail}"
    )


def _run(pipe: "SamaPipeline", job: _Job, settings: "EditSettings", compare: bool, sheet: bool = False) -> list[Path]:
    from ..editing import edit_video

    beside = job.compare if compare else None
    contact = job.output.with_name(f"{job.output.stem}_contact_sheet.png") if sheet else None
    started = time.monotonic()
    with ProgressBar() as progress:
        sidecar = edit_video(
            pipe, job.video, job.prompt, job.output, settings, compare=beside, contact_sheet=contact, progress=progress
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

    job = _Job(ASSETS / "demo.mp4", "Make the scene look like it is night", make_folder(out) / "cup_night.mp4")
    written = _run(load_pipeline("nano"), job, EditSettings(), compare=True, sheet=True)
    for label, path in zip(("result", "side by side", "contact sheet"), written, strict=True):
        typer.echo(f"{label}: {path.resolve()}")
