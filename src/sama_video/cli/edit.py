"""`sama edit` and `sama demo`."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..system.errors import UserError
from ..system.files import check_folder, folder_made, sweep
from .console import remark, say
from .edit_manifest import Batch, Job, check_files, default_output, read_rows
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..editing import EditPlan
    from ..pipelines.pipeline_sama import SamaPipeline
    from ..pipelines.selection import Loading


def edit(
    video: Annotated[Path | None, typer.Argument(help="Source video or image.", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Argument(help="What to change.", show_default=False)] = None,
    video_option: Annotated[Path | None, typer.Option("--video", help="The source, as an option.")] = None,
    prompt_option: Annotated[str | None, typer.Option("--prompt", help="The instruction, as an option.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Result; with --manifest a folder. Default: beside the source."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV, JSON, JSONL or Parquet of videos and prompts; settings as columns.")
    ] = None,
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
    allow_outside: Annotated[bool, typer.Option(help="Rows of the manifest may write outside of --output.")] = False,
) -> None:
    """Edit a video: sama edit clip.mp4 "make it black and white"."""
    _check_given_once(video, prompt, video_option, prompt_option, manifest)

    from ..editing import EditSettings
    from ..pipelines.selection import Loading, read_facts

    # 1. Arguments
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
    options = {"device": device, "dtype": dtype, "offload": offload, "scheduler": scheduler, "vae_tiling": vae_tiling}
    video, prompt = video or video_option, prompt if prompt is not None else prompt_option

    # 2. Files, then the model's configuration, then the device: only the last may need torch
    if manifest is not None:
        folder = output or manifest.parent
        batch = Batch(
            manifest=manifest,
            folder=folder,
            edit=lambda pipe, job: _run(pipe, job, compare, told=plans[job.row].notes),
            load=_load,
            compare=compare,
            overwrite=overwrite,
        )
        rows = read_rows(manifest, folder, settings, column_map or [], allow_outside=allow_outside)
        batch.check_files(rows)
        facts, loading = read_facts(model, lora), Loading(model=model, lora=lora, **options)
        plans = batch.plan(rows, loading, facts)
        for job in rows.jobs:
            _warn(plans[job.row], f"row {job.row}: ")
        if dry_run:
            for job in rows.jobs:
                _describe(job, plans[job.row])
        else:
            batch.run(rows, loading)
        batch.end(rows, recorded=not dry_run)
        return
    if video is None or prompt is None:
        raise UserError('give a video and an instruction: sama edit clip.mp4 "make it black and white"')
    job = Job(video=video, prompt=prompt, output=output or default_output(video), settings=settings)
    reader = check_files(job, compare, overwrite=overwrite, makes_folder=False)
    facts = read_facts(model, lora)

    from ..editing import check_edit

    plan = check_edit(reader, job.prompt, job.output, settings, facts, compare=compare)
    loading = Loading(model=model, lora=lora, **options)

    _warn(plan)

    # 3. The edit
    if dry_run:
        _describe(job, plan)
    else:
        _edit_one(job, loading, compare, plan)


def _edit_one(job: Job, loading: "Loading", compare: bool, plan: "EditPlan") -> None:
    sweep(job.output.parent)
    try:
        _run(_load(loading), job, compare, told=plan.notes)
    except KeyboardInterrupt as stop:
        stop.add_note("stopped; nothing was written")
        raise


def _load(loading: "Loading") -> "SamaPipeline":
    with ProgressBar() as progress, progress.waiting(f"loading {loading.model}"):
        from ..pipelines.loading import load_pipeline

        pipe = load_pipeline(**asdict(loading))
    pipe.loaded_as = loading  # the same, with its hashes where they are known already
    return pipe


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


def _warn(plan: "EditPlan", which: str = "") -> None:
    """What is better known before the model runs."""
    for note in plan.notes:
        remark(f"note: {which}{note}")


def _describe(job: Job, plan: "EditPlan") -> None:
    info = plan.info
    frames = job.settings.num_frames or info.num_frames or "all"
    say(
        f"{job.video} ({info.width}x{info.height}, {float(info.fps):.3f} fps) -> {job.output} "
        f"({plan.written_size[1]}x{plan.written_size[0]}): {frames} frames, model at "
        f"{plan.model_size[1]}x{plan.model_size[0]} in windows of {plan.window}, detail {plan.detail}"
    )


def _run(pipe: "SamaPipeline", job: Job, compare: bool, *, told: Sequence[str] = (), sheet: bool = False) -> list[Path]:
    from ..editing import edit_video

    beside = job.compare if compare else None
    contact = job.output.with_name(f"{job.output.stem}_contact_sheet.png") if sheet else None
    started = time.monotonic()
    with ProgressBar() as progress:
        sidecar = edit_video(
            pipe,
            job.video,
            job.prompt,
            job.output,
            job.settings,
            compare=beside,
            contact_sheet=contact,
            progress=progress,
        )
    for note in sidecar["notes"]:
        if note not in told:
            remark(f"note: {note}")
    frames = sidecar["source"]["num_frames"]
    say(f"{job.output} ({frames} frames in {time.monotonic() - started:.1f} s)")
    return [path for path in (job.output, beside, contact) if path is not None]


def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo")) -> None:
    """Edit the bundled clip with the shipped model and say where the results are."""
    from ..editing import EditSettings
    from ..models.presets import ASSETS
    from ..pipelines.selection import Loading

    prompt = "Make the scene look like it is night"
    job = Job(video=ASSETS / "demo.mp4", prompt=prompt, output=out / "cup_night.mp4", settings=EditSettings())
    check_folder(out)
    pipe = _load(Loading(model="nano"))
    with folder_made(out):
        written = _run(pipe, job, compare=True, sheet=True)
    for label, path in zip(("result", "side by side", "contact sheet"), written, strict=True):
        say(f"{label}: {path.resolve()}")
