"""`sama edit` and `sama demo`."""

import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..system import processes
from ..system.errors import UserError
from ..system.files import check_folder, folder_made, sweep
from . import options
from .console import remark, say
from .edit_manifest import EditAll, EditBatch, Job, check_files, default_output, read_rows
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..editing import EditPlan
    from ..pipelines.pipeline_sama import SamaPipeline
    from ..pipelines.selection import Loading, ModelInfo


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
    column_map: options.ColumnMap = None,
    model: options.ModelName = "nano",
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance leads away from.")] = None,
    num_inference_steps: options.NumInferenceSteps = None,
    guidance_scale: options.GuidanceScale = None,
    flow_shift: options.FlowShift = None,
    fast: options.Fast = False,
    guidance_start: options.GuidanceStart = 0.0,
    guidance_end: options.GuidanceEnd = 1.0,
    source_refresh: options.SourceRefresh = 1,
    seed: Annotated[int, typer.Option()] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="So many results, of this seed and those after it, and a sheet of all.")
    ] = 1,
    height: Annotated[int | None, typer.Option(help="Working height; default: the source's aspect ratio.")] = None,
    width: Annotated[int | None, typer.Option(help="Working width.")] = None,
    max_pixels: options.MaxPixels = None,
    max_source_pixels: Annotated[
        int | None, typer.Option(help="Refuse sources with more pixels a frame; default: 67108864.")
    ] = None,
    start: options.Start = 0.0,
    end: options.End = None,
    num_frames: Annotated[int | None, typer.Option(help="Edit so many frames; default: all.")] = None,
    strength: options.Strength = None,
    mask: options.Mask = None,
    box: options.Box = None,
    feather: Annotated[int | None, typer.Option(help="Pixels of soft edge inside the region; default: 2 %.")] = None,
    fit: Annotated[
        str, typer.Option(help="resize, crop or pad to the working size; release: as the authors' code cuts.")
    ] = "resize",
    output_size: Annotated[str, typer.Option(help="source or model.")] = "source",
    detail: Annotated[
        str | None, typer.Option(help="source brings back the source's resolution, none resizes plainly.")
    ] = None,
    codec: options.Codec = None,
    crf: Annotated[
        int, typer.Option(help="x264's scale of quality, lower is better; 0 loses nothing (not for browsers).")
    ] = 16,
    lora: options.Lora = None,
    scheduler: Annotated[str, typer.Option(help="euler (the release's) or unipc.")] = "euler",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory: options.Memory = "auto",
    offload: options.Offload = "none",
    storage_dtype: options.StorageDtype = "same",
    vae_tiling: options.VaeTiling = False,
    replicas: Annotated[
        int, typer.Option(min=1, help="With --manifest: so many edits at once, each on a device of its own, by Ray.")
    ] = 1,
    keep_going: Annotated[bool, typer.Option(help="With --manifest: edit the other rows when one fails.")] = True,
    compare: Annotated[bool, typer.Option(help="Also write source and result side by side.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing result.")] = False,
    allow_outside: Annotated[bool, typer.Option(help="Rows of the manifest may write outside of --output.")] = False,
) -> None:
    """Edit a video: sama edit clip.mp4 "make it black and white"."""
    given = locals()
    _check_given_once(given)

    from ..editing import EditSettings, check_edit, seeded, seeds_sheet_of
    from ..pipelines.selection import Loading, find_model

    # Files, then the model's configuration, then the device: only the last may need torch.
    settings = options.made_of(given, EditSettings)
    if replicas > 1 and manifest is None:
        raise UserError("--replicas edits many videos at once; give them as a --manifest")
    if seeds > 1 and manifest is not None:
        raise UserError("--seeds makes many results of one video; in a --manifest give each row a seed of its own")
    if manifest is not None:
        if processes.world_size() > 1:
            raise UserError("torchrun spreads one edit over its processes; for a --manifest give --replicas instead")
        folder = output or manifest.parent
        rows = read_rows(manifest, folder, settings, column_map or [], compare=compare, allow_outside=allow_outside)
        batch = EditBatch(manifest=manifest, folder=folder, rows=rows, overwrite=overwrite, keep_going=keep_going)
        batch.check_files()
        found = find_model(model)
        info = found.info(lora)
        _note_haste(fast, lora, info)
        loading = options.made_of(given, Loading, model=found)
        plans = batch.plan(loading, info)
        for job in rows.jobs:
            _warn(plans[job.row], f"row {job.row}: ")
        if dry_run:
            for job in rows.jobs:
                _describe(job, plans[job.row])
        else:
            batch.run(lambda: _on_replicas(loading, replicas) if replicas > 1 else _one_by_one(loading, plans))
        batch.end(recorded=not dry_run)
        return
    video, prompt = video or video_option, prompt if prompt is not None else prompt_option
    if video is None or prompt is None:
        raise UserError('give a video and an instruction: sama edit clip.mp4 "make it black and white"')
    whole = Job(
        video=video, prompt=prompt, output=output or default_output(video), settings=settings, with_compare=compare
    )
    jobs, sheet = [whole], None
    if seeds > 1:
        ways = seeded(whole.output, settings, seeds)
        jobs = [replace(whole, output=path, settings=way, row=row) for row, (path, way) in enumerate(ways, start=1)]
        sheet = seeds_sheet_of(whole.output)
    for job in jobs:
        source = check_files(job, overwrite=overwrite, makes_folder=False, sheet=sheet)
    found = find_model(model)
    info = found.info(lora)
    _note_haste(fast, lora, info)
    plan = check_edit(source, prompt, whole.output, settings, info, compare=compare)
    if processes.world_size() > 1 and device == "auto":
        given["device"] = str(processes.own_device())
    loading = options.made_of(given, Loading, model=found)
    _warn(plan)
    if dry_run:
        for job in jobs:
            _describe(job, plan)
    else:
        _edit_one(jobs, loading, plan, sheet)


def _edit_one(jobs: Sequence[Job], loading: "Loading", plan: "EditPlan", sheet: Path | None) -> None:
    """One video; with several seeds also a `sheet` of their results."""
    from ..editing import write_seeds_sheet

    sweep(jobs[0].output.parent)
    done = 0
    try:
        pipe = _load(loading)
        for job in jobs:
            with _in_its_place(job) as own:
                _run(pipe, own, replace(plan, settings=job.settings))
            done += 1
        if sheet is not None and processes.rank() == 0:
            write_seeds_sheet(plan, [job.output for job in jobs], sheet)
            say(f"all of them: {sheet}")
    except KeyboardInterrupt as stop:
        stop.add_note(f"stopped after {done} of {len(jobs)} results" if done else "stopped; nothing was written")
        raise


@contextlib.contextmanager
def _in_its_place(job: Job) -> Iterator[Job]:
    """All processes do the same edit; what those after the first write and say is thrown away."""
    if processes.rank() == 0:
        yield job
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield replace(job, output=Path(folder) / job.output.name)


def _one_by_one(loading: "Loading", plans: "Mapping[int, EditPlan]") -> EditAll:
    pipe = _load(loading)

    def edit_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, Exception | None]]:
        for job in jobs:
            try:
                with folder_made(job.output.parent):
                    _run(pipe, job, plans[job.row])
            except Exception as error:
                yield job, error
            else:
                yield job, None

    return edit_all


def _on_replicas(loading: "Loading", replicas: int) -> EditAll:
    from ..editing.ray_queue import EditTask, edit_on_replicas

    def edit_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, Exception | None]]:
        tasks = [
            EditTask(video=job.video, prompt=job.prompt, output=job.output, settings=job.settings, compare=job.compare)
            for job in jobs
        ]
        with ProgressBar() as progress:
            progress("editing", 0, len(jobs))
            for done, (index, error) in enumerate(edit_on_replicas(tasks, loading, replicas), start=1):
                progress("editing", done, len(jobs))
                if error is None:
                    say(str(jobs[index].output))
                yield jobs[index], error

    return edit_all


def _load(loading: "Loading") -> "SamaPipeline":
    with ProgressBar() as progress, progress.waiting(f"loading {loading.model.name}"):
        from ..pipelines.loading import load
        from ..pipelines.placement import spread_sequence

        pipe = load(loading)
        if processes.world_size() > 1:
            spread_sequence(pipe, loading.resolved_device)
    for note in pipe.lora_notes:
        remark(f"note: {note}")
    placed = pipe.loaded_as
    if placed is not None and placed.offload != loading.offload:
        tiled = " and --vae-tiling" if placed.vae_tiling and not loading.vae_tiling else ""
        remark(
            f"note: --memory {loading.memory} chose --offload {placed.offload}{tiled} for the memory that is free now"
        )
    return pipe


def _check_given_once(values: Mapping[str, Any]) -> None:
    names = {"VIDEO": "video", "--video": "video_option", "PROMPT": "prompt", "--prompt": "prompt_option"}
    given = [name for name, option in names.items() if values[option] is not None]
    for one, other in (("VIDEO", "--video"), ("PROMPT", "--prompt")):
        if one in given and other in given:
            raise UserError(f"{one} and {other} are the same; give one of them")
    if values["manifest"] is not None and given:
        raise UserError(f"{given[0]} and --manifest do not go together: the manifest names videos and prompts")


def _note_haste(fast: bool, lora: list[str] | None, model: "ModelInfo") -> None:
    from ..editing.settings import FAST_STEPS

    if fast and not lora and model.default_num_inference_steps > 2 * FAST_STEPS:
        remark("note: this model was not made for --fast; a LoRA that was (--lora) keeps its edits good")


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


def _run(pipe: "SamaPipeline", job: Job, plan: "EditPlan | None" = None, *, sheet: Path | None = None) -> None:
    from ..editing import edit_video

    started = time.monotonic()
    with ProgressBar() as progress:
        record = edit_video(
            pipe,
            job.video,
            job.prompt,
            job.output,
            job.settings,
            compare=job.compare,
            contact_sheet=sheet,
            progress=progress,
            plan=plan,
            command=shlex.join(["sama", *sys.argv[1:]]),
        )
    for note in record["notes"]:
        if plan is None or note not in plan.notes:
            remark(f"note: {note}")
    frames = record["source"]["num_frames"]
    say(f"{job.output} ({frames} frames in {time.monotonic() - started:.1f} s)")


def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo")) -> None:
    """Edit the bundled clip with the shipped model and say where the results are."""
    from ..editing import EditSettings
    from ..models.presets import ASSETS
    from ..pipelines.selection import Loading, find_model

    job = Job(
        video=ASSETS / "demo.mp4",
        prompt="Remove the car",
        output=out / "without_car.mp4",
        settings=EditSettings(),
        with_compare=True,
    )
    sheet = out / "without_car_contact_sheet.png"
    check_folder(out)
    pipe = _load(Loading(model=find_model("nano")))
    with folder_made(out):
        _run(pipe, job, sheet=sheet)
    for label, path in (("result", job.output), ("side by side", job.compare), ("contact sheet", sheet)):
        if path is not None:
            say(f"{label}: {path.resolve()}")
