"""`sama eval`: run an editor on a benchmark, let a judge score it, score it exactly, draw tables."""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..system.errors import UserError
from . import options
from .judge_options import JudgeOptions, end_of_judging, with_judge_options

if TYPE_CHECKING:
    from ..evaluation.benchmark import Item
    from ..evaluation.exact import ExactConfig
    from ..evaluation.records import RunInfo
    from .progress import ProgressBar

eval_app = typer.Typer(help="Score editors on benchmarks.", no_args_is_help=True)


@eval_app.callback()
def evaluate() -> None:
    """Score editors on benchmarks."""


@eval_app.command()
@with_judge_options
def judge(
    run: Annotated[Path, typer.Argument(help="Folder of 'sama eval predict'; the same command resumes.")],
    model: Annotated[str | None, typer.Option(help="The judge's name at the endpoint. Default: as in print.")] = None,
    prompts: Annotated[
        str, typer.Option(help="own, or copy for the authors' from your copy of the benchmark.")
    ] = "own",
    repeats: Annotated[int | None, typer.Option(help="How often each item is judged. Default: as in print.")] = None,
    media: Annotated[
        str | None,
        typer.Option(
            help="frames (any endpoint), side_by_side, video_url or video_in_image_url. Default: as in print."
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames shown of each clip. Default: as in print.")] = None,
    long_side: Annotated[int | None, typer.Option(help="Longer side of the frames shown, pixels.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the judge's sampling. Default: as in print.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of an answer. Default: as in print.")] = None,
    *,
    options: JudgeOptions,
) -> None:
    """Let a vision language model score a run's edits as the benchmark asks; several judges may score one run."""
    from ..evaluation.judging import JudgingConfig, judge_run, media_of, protocol_of, quote_judging
    from .progress import ProgressBar

    protocol = protocol_of(run)
    config = JudgingConfig(
        judge=options.config(
            model=model or protocol.model,
            temperature=protocol.temperature if temperature is None else temperature,
            max_tokens=protocol.max_tokens if max_tokens is None else max_tokens,
            media=media_of(protocol, kind=media, num_frames=frames, long_side=long_side),
        ),
        repeats=protocol.repeats if repeats is None else repeats,
        prompts=prompts,
    )
    if options.dry_run:
        options.show(quote_judging(run, config))
        return
    with ProgressBar() as progress:
        result = judge_run(run, config, progress)
    counts = ", ".join(f"{number} {status}" for status, number in result.statuses.items())
    typer.echo(f"judgments: {counts}: {result.path}")
    end_of_judging(result.unanswered)


@eval_app.command()
def predict(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes.")],
    benchmark: Annotated[str | None, typer.Argument(help="Such as reco-bench or engine.", show_default=False)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your copy of the benchmark; 'engine' and 'known' are made beside --out.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Sources and instructions, instead of a benchmark.")] = None,
    column_map: options.ColumnMap = None,
    editor: Annotated[
        str | None, typer.Option(help="Any program: 'myedit --in {source} --text {instruction} --out {output}'.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that --editor has for an item.")] = None,
    control: Annotated[
        str | None, typer.Option(help="identity, wrong-clip, noise, half, perfect or known-drawing.")
    ] = None,
    from_folder: Annotated[
        Path | None, typer.Option(help="Take finished results, where the benchmark's authors keep them.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the editor, in tables. Default: the model's or program's.")
    ] = None,
    model: options.ModelName = "nano",
    lora: options.Lora = None,
    seed: Annotated[int, typer.Option(help="Of every edit.")] = 0,
    num_inference_steps: options.NumInferenceSteps = None,
    guidance_scale: options.GuidanceScale = None,
    flow_shift: options.FlowShift = None,
    fast: options.Fast = False,
    guidance_start: options.GuidanceStart = 0.0,
    guidance_end: options.GuidanceEnd = 1.0,
    source_refresh: options.SourceRefresh = 1,
    max_pixels: options.MaxPixels = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory: options.Memory = "auto",
    offload: options.Offload = "none",
    storage_dtype: options.StorageDtype = "same",
    vae_tiling: options.VaeTiling = False,
    tasks: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many items of each task.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Edit again what failed before.")] = True,
    *,
    context: typer.Context,
) -> None:
    """Let an editor edit every item of a benchmark.

    A failure is a record with its reason, and does not stop the others; the exit code is then 1. It is 2 where no item
    can be edited: wrong options, an editor that cannot start, a full disk.
    """
    given = locals()

    from ..editing.settings import EditSettings
    from ..evaluation.editors import CommandEditor, ControlEditor, FolderEditor, PipelineEditor
    from ..evaluation.predict import predict as run
    from ..evaluation.predict import select_items, summary
    from .progress import ProgressBar

    if sum(choice is not None for choice in (editor, control, from_folder)) > 1:
        raise UserError("--editor, --control and --from-folder are three editors; give one of them")
    _refuse_unused(context, *(("--manifest", "data") if manifest else ("a benchmark", "column_map")))
    other = "--editor" if editor else "--control" if control else "--from-folder" if from_folder else None
    loading = {
        "lora": lora, "device": device, "dtype": dtype, "memory": memory, "offload": offload,
        "storage_dtype": storage_dtype, "vae_tiling": vae_tiling,
    }  # fmt: skip
    if other is not None:
        _refuse_unused(context, other, "model", *loading, *(each.name for each in fields(EditSettings)))
    if editor is None:
        _refuse_unused(context, other or "SAMA as the editor", "timeout")
    with ProgressBar() as progress:
        info, items = _items(benchmark, data, manifest, column_map or [], out, progress)
        items = select_items(items, tasks or [], limit)
        if editor is not None:
            chosen = CommandEditor(template=editor, timeout=timeout)
        elif control is not None:
            chosen = ControlEditor(control=control, items=items)
        elif from_folder is not None:
            chosen = FolderEditor(folder=from_folder)
        else:
            chosen = PipelineEditor(model=model, edit=options.made_of(given, EditSettings), loading=loading)
        info = replace(info, editor=name or chosen.name)
        predictions = run(info, items, chosen, out, retry_failed=retry_failed, progress=progress)
    typer.echo("\n".join(summary(predictions)))
    typer.echo(str(out))
    if any(one.status == "failed" for one in predictions):
        raise typer.Exit(1)


def _refuse_unused(context: typer.Context, what: str, *options: str) -> None:
    """What was asked for and would not be done must not pass in silence."""
    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{option.replace('_', '-')} has no effect with {what}; leave it out")


def _items(
    benchmark: str | None,
    data: Path | None,
    manifest: Path | None,
    column_map: list[str],
    out: Path,
    progress: "ProgressBar",
) -> "tuple[RunInfo, list[Item]]":
    """What a run is of, and its items; the editor is not known yet."""
    from ..data.manifest import parse_column_map
    from ..evaluation.benchmark import find_benchmark
    from ..evaluation.layouts import read_items
    from ..evaluation.pairs import make_engine_set, read_manifest_items
    from ..evaluation.records import MANIFEST, RunInfo

    if (benchmark is None) == (manifest is None):
        raise UserError("give a benchmark, such as 'sama eval predict engine', or --manifest FILE")
    if manifest is not None:
        items = read_manifest_items(str(manifest), column_map=parse_column_map(column_map))
        return RunInfo(benchmark=MANIFEST, version="", data=str(manifest.resolve()), editor=""), items
    assert benchmark is not None
    found = find_benchmark(benchmark)
    if data is None and found.engine:
        data = make_engine_set(found, out.resolve().parent / f"{found.name}-{found.version}", progress).parent
    if data is None:
        raise UserError(f"{found.title} needs --data, the folder of your copy: {found.about}")
    data = data.resolve()
    return RunInfo(benchmark=found.name, version=found.version, data=str(data), editor=""), read_items(found, data)


@eval_app.command()
def exact(
    run: Annotated[Path, typer.Argument(help="Folder of 'sama eval predict', or a manifest of finished edits.")],
    edited: Annotated[str, typer.Option(help="The manifest's column of edited videos.")] = "edited",
    out: Annotated[Path | None, typer.Option(help="Folder for a manifest's scores. Default: beside it.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the manifest's editor, in tables. Default: the file's.")] = None,
    column_map: options.ColumnMap = None,
    success_factor: Annotated[float, typer.Option(help="How many times nearer to the target a success is.")] = 4.0,
    semantic_encoder: Annotated[
        str | None, typer.Option(help="SigLIP for text agreement: folder, hub id, or nano (weak).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Items at a time. Default: one per core.")] = None,
    *,
    context: typer.Context,
) -> None:
    """Score edits without a judge: against exact targets where they are known, else against the sources.

    Of the benchmark 'engine' also the ceilings are found, once for an item: what an editor can reach that knows only
    the drawings of the train split.
    """
    from ..data.manifest import parse_column_map
    from ..evaluation.exact import ExactConfig, run_of_manifest, score_run, summary
    from ..evaluation.records import EXACT, read_run
    from .progress import ProgressBar

    config = ExactConfig(success_factor=success_factor, semantic_encoder=semantic_encoder, workers=workers)
    if run.is_dir():
        _refuse_unused(context, "a run's folder", "edited", "out", "name", "column_map")
    else:
        folder = out or run.with_name(f"{run.stem}_exact")
        run_of_manifest(run, edited, folder, name or run.stem, column_map=parse_column_map(column_map or []))
        run = folder
    with ProgressBar() as progress:
        records = score_run(run, config, progress)
    typer.echo("\n".join(summary(read_run(run)[1], records)))
    _score_ceilings(run, config)
    typer.echo(str(run / EXACT))


def _score_ceilings(run: Path, config: "ExactConfig") -> None:
    """The run is scored already: what is wrong with its set is said, and no failure."""
    from ..evaluation.ceilings import score_ceilings, summary
    from .progress import ProgressBar

    try:
        with ProgressBar() as progress:
            ceilings = score_ceilings(run, config, progress)
    except UserError as error:
        typer.echo(f"no ceilings: {error}")
    else:
        for line in summary(ceilings):
            typer.echo(line)


@eval_app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of one benchmark, judged or scored exactly.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables and the page.")] = Path("report"),
    judge: Annotated[str | None, typer.Option(help="Whose scores, if several judged the runs.")] = None,
    with_published: Annotated[bool, typer.Option(help="With the paper's table of the benchmark.")] = False,
    compat: Annotated[bool, typer.Option(help="As the authors' script counts, its traps included.")] = False,
    format: Annotated[
        list[str] | None, typer.Option(help="markdown, csv, latex or html; repeatable. Default: all.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Edits shown of the best, the worst and at random, a run.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the random ones.")] = 0,
) -> None:
    """Draw tables with intervals, and a page with the videos."""
    given = locals()

    from ..evaluation.report import ReportConfig, write_report

    config = options.made_of(given, ReportConfig, formats=tuple(format) if format else ReportConfig.formats)
    typer.echo("\n".join(str(path) for path in write_report(runs, out, config)))


@eval_app.command()
def stages(
    run: Annotated[Path, typer.Argument(help="Folder of 'sama train', its --out; trained on the engine.")],
    items: Annotated[int, typer.Option(help="Edits of each family.")] = 6,
) -> None:
    """Score every stage of a training on edits that none of them saw: what stage 0 does alone, and what comes after."""
    from ..evaluation.held_out import tables_of_stages
    from ..evaluation.tables import console
    from .progress import ProgressBar

    with ProgressBar() as progress:
        tables = tables_of_stages(run, items, progress)
    typer.echo("\n".join(map(console, tables)))


@eval_app.command()
def sanity(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs with --control, and of editors if you like.")],
    judge: Annotated[str | None, typer.Option(help="Which judge, if several judged the runs.")] = None,
) -> None:
    """Are controls ranked as they must be? Exit code 1 if the judge, or an exact score, ranks them wrong."""
    from ..evaluation.sanity import check_controls
    from ..evaluation.tables import console

    verdict = check_controls(runs, judge)
    typer.echo("\n".join(map(console, verdict.tables)))
    typer.echo("\n".join(verdict.sentences))
    if not verdict.fit:
        raise typer.Exit(1)
