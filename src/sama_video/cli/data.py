"""`sama data`: make, check, show, cache and curate training data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..system.errors import UserError
from .judge_options import JudgeOptions, end_of_judging, with_judge_options

data_app = typer.Typer(help="Make, check, show, cache and curate training data.", no_args_is_help=True)


@data_app.callback()
def data() -> None:
    """Make, check, show, cache and curate training data."""


@contextmanager
def _resumable(kept: str) -> Iterator[None]:
    """A command of which Ctrl-C loses nothing: the note is what the user is told."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"stopped; {kept}, and the same command continues from there")
        raise


@data_app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder of the set; the same folder resumes.")],
    count: Annotated[int, typer.Option(help="Samples.")] = 200,
    split: Annotated[
        str, typer.Option(help="train, validation, test, or known: taught drawings, else as test.")
    ] = "train",
    seed: Annotated[int, typer.Option(help="Another seed is another set.")] = 0,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Edit family, or local_change/colour and the like; repeatable. Default: all."),
    ] = None,
    vocabulary: Annotated[str, typer.Option(help="Things to show: names with commas, or nano. Default: all.")] = "",
    loose: Annotated[float, typer.Option(help="Fraction of loosely worded instructions.")] = 0.0,
    num_frames: Annotated[int, typer.Option(help="Frames of a clip; 1 writes pictures.")] = 17,
    height: Annotated[int, typer.Option(help="Pixels, even.")] = 128,
    width: Annotated[int, typer.Option(help="Pixels, even.")] = 128,
    fps: Annotated[int, typer.Option(help="Frames a second.")] = 16,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures to use as backgrounds.")] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of videos to use as backgrounds, cut at shots.")] = None,
    footage_fraction: Annotated[float, typer.Option(help="Of the samples that have such a background.")] = 0.5,
    all_footage: Annotated[
        bool, typer.Option(help="Use every picture and shot, not the split's alone: for files that no training sees.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one per core.")] = None,
) -> None:
    """Make a set of (source, instruction, target, mask) samples with exact answers."""
    from ..data.engine_set import EngineSetConfig, write_engine_set
    from ..synth.sprites import find_vocabulary
    from .progress import ProgressBar

    config = EngineSetConfig(
        split=split,
        seed=seed,
        families=tuple(family) if family else EngineSetConfig.families,
        loose=loose,
        vocabulary=find_vocabulary(vocabulary),
        num_frames=num_frames,
        height=height,
        width=width,
        fps=fps,
        images=str(images.resolve()) if images else None,
        videos=str(videos.resolve()) if videos else None,
        footage_fraction=footage_fraction,
        all_footage=all_footage,
    )
    with _resumable("complete samples are kept"), ProgressBar() as progress:
        manifest = write_engine_set(config, out, count, workers, progress)
    typer.echo(f"{count} samples: {manifest}")


@data_app.command()
@with_judge_options
def curate(
    manifest: Annotated[str, typer.Argument(help="CSV, JSON, JSONL or Parquet with source, target and prompt.")],
    out: Annotated[Path, typer.Option(help="Folder of the answers and results; the same folder resumes.")],
    model: Annotated[str, typer.Option(help="The judge's name at the endpoint.")] = "Qwen/Qwen2.5-VL-72B-Instruct",
    turns: Annotated[int, typer.Option(help="How often each prompt is asked.")] = 3,
    threshold: Annotated[list[str] | None, typer.Option(help="Such as video.visual_quality=8.5; repeatable.")] = None,
    media: Annotated[str, typer.Option(help="frames, or video_url for vLLM.")] = "frames",
    frames: Annotated[int, typer.Option(help="Frames shown of each clip.")] = 8,
    long_side: Annotated[int, typer.Option(help="Longer side of the frames shown, pixels.")] = 512,
    temperature: Annotated[float, typer.Option(help="Of the judge's sampling.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Of an answer; reasoning models need more.")] = 1024,
    column_map: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN of the manifest; repeatable.")] = None,
    ray: Annotated[bool, typer.Option(help="Judge under Ray Data, on the cluster that RAY_ADDRESS names.")] = False,
    ray_actors: Annotated[int, typer.Option(help="Processes that ask, for --ray.")] = 2,
    *,
    options: JudgeOptions,
) -> None:
    """Let a vision language model judge edited pairs and keep the good ones (the paper's Appendix B)."""
    from ..curation.curate import curate as run
    from ..curation.curate import quote
    from ..curation.ray_backend import RayConfig, curate_with_ray
    from ..curation.rules import CurationConfig
    from ..data.manifest import parse_column_map, read_manifest
    from ..judge.clips import MediaConfig
    from .progress import ProgressBar

    shown = MediaConfig(kind=media, num_frames=frames, long_side=long_side)
    judge = options.config(model=model, temperature=temperature, max_tokens=max_tokens, media=shown)
    config = CurationConfig(judge=judge, turns=turns).with_thresholds(threshold or [])
    rows = read_manifest(manifest, column_map=parse_column_map(column_map or []))
    if options.dry_run:
        options.show(quote(rows, out, config))
        return
    with ProgressBar() as progress:
        if ray:
            result = curate_with_ray(rows, out, config, progress, RayConfig(actors=ray_actors))
        else:
            result = run(rows, out, config, progress)
    typer.echo(f"kept {result.kept} of {result.pairs} pairs: {out / 'kept.csv'}; why: {out / 'report.md'}")
    end_of_judging(result.unanswered)


@data_app.command()
def check(
    manifest: Annotated[str, typer.Argument(help="CSV, JSON, JSONL or Parquet with source, target and prompt.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: beside the manifest.")] = None,
    workers: Annotated[int | None, typer.Option(help="Files decoded at a time. Default: one per core.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset of the paper: its columns, its subset.")] = None,
    whole: Annotated[bool, typer.Option(help="With --dataset: not only the subset that the paper takes.")] = False,
    root: Annotated[str | None, typer.Option(help="Folder or URL of relative media. Default: the manifest's.")] = None,
    column_map: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN of the manifest; repeatable.")] = None,
) -> None:
    """Decode every file of a manifest and sort its rows into clean and rejected; exit code 1 if any is rejected."""
    from ..data.catalogue import find_dataset, read_dataset
    from ..data.manifest import EDIT_PAIR, is_url, parse_column_map, read_manifest
    from .progress import ProgressBar

    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}")
    if out is None and is_url(manifest):
        raise UserError("a manifest at a URL needs --out, the folder to write the results to")
    folder = out or Path(manifest).with_name(f"{Path(manifest).stem}_check")
    names = parse_column_map(column_map or [])
    required = EDIT_PAIR
    if dataset is None:
        rows = read_manifest(manifest, column_map=names, root=root)
    else:
        required = find_dataset(dataset).required
        rows = read_dataset(dataset, manifest, column_map=names, root=root, whole=whole)

    from ..data.check import check_manifest

    with _resumable("files that were checked are remembered"), ProgressBar() as progress:
        result = check_manifest(rows, folder, workers=workers, required=required, progress=progress)
    typer.echo("\n".join(result.summary()))
    typer.echo(f"{folder / 'clean.csv'}, {folder / 'rejected.csv'}, {folder / 'report.json'}")
    if result.num_clean < result.num_rows:
        raise typer.Exit(1)


@data_app.command()
def cache(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of the training's recipe, such as lora-finetuning.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Instead of a recipe: YAML or JSON, like config.json.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, the training's; data.cache names the folder.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; each holds the encoders.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Encode the clips, texts and anchor frames of a training once, for all its epochs."""
    from ..training.overrides import find_stages
    from .progress import ProgressBar

    stages = find_stages(recipe, settings or [], config)

    from ..training.caching import CacheJob, fill_cache  # imports torch

    jobs = [CacheJob(run=stage, device=device, workers=workers) for stage in stages]
    for job in jobs:
        with _resumable("what was encoded is kept"), ProgressBar() as progress:
            filled = fill_cache(job, progress)
        typer.echo(
            f"{filled.num_samples} samples, {filled.num_entries} entries in {filled.precision}, {filled.num_new} of "
            f"them new: {job.out}"
        )


@data_app.command()
def preview(
    recipe: Annotated[str | None, typer.Argument(help="Name of the training's recipe, such as nano.")] = None,
    config: Annotated[Path | None, typer.Option(help="Instead of a recipe: YAML or JSON, like config.json.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, the training's; repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="A sheet (.png), or a page whose clips play (.html).")] = Path(
        "preview.png"
    ),
    batches: Annotated[int, typer.Option(help="Of the first epoch.")] = 6,
    samples: Annotated[int, typer.Option(help="At most so many of each batch.")] = 2,
) -> None:
    """Show what a training's first batches hold, after pretext tasks and buckets; no model is loaded."""
    from ..training.overrides import find_stages

    stages = find_stages(recipe, settings or [], config)

    from ..training.batch_preview import preview_batches  # imports torch

    shown = preview_batches(stages, out, num_batches=batches, num_samples=samples)
    typer.echo(f"{shown} samples: {out}")
