"""`sama edit --manifest`: rows of a manifest -> edits; a row that fails is recorded, and the others are made."""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import typer

from ..system.errors import UserError
from ..system.files import check_folder, folder_made, is_about_a_full_disk, sweep, written_aside
from .console import FAILED, remark, say, sentence, show_trace
from .options import option_of, parse_size, parse_time
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..data.manifest import Row
    from ..editing import EditPlan, EditSettings
    from ..pipelines.selection import Loading, ModelInfo
    from ..video import VideoReader

EditAll = Callable[[Sequence["Job"]], Iterator[tuple["Job", Exception | None]]]
# Failures named in one sentence; all are in the record of failures.
_SHOWN_FAILURES = 3
# Of a row's fields, what an edit has no use for, and what one would expect to do something.
_UNUSED_FIELDS = ("tgt_video", "ref_image")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One edit: a row of a manifest, or what a single command asks for."""

    video: Path
    prompt: str
    output: Path
    settings: "EditSettings"
    with_compare: bool = False
    row: int = 1

    @property
    def compare(self) -> Path | None:
        """Where source and result go side by side, if they do."""
        return self.output.with_name(f"{self.output.stem}_compare{self.output.suffix}") if self.with_compare else None

    @property
    def outputs(self) -> list[Path]:
        """All files that it writes."""
        from ..editing import sidecar_of

        return [self.output, sidecar_of(self.output), *([] if self.compare is None else [self.compare])]


@dataclass(kw_only=True)
class Rows:
    """What a manifest asks for.

    Args:
        jobs: rows that can be tried, in their order.
        failures: row -> why it cannot be edited.
        unused: columns that have no meaning for an edit.
    """

    count: int = 0
    jobs: list[Job] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def keep(self, test: Callable[[Job], object]) -> None:
        """Only jobs that a check lets pass; a UserError of it is why a row cannot be edited, False leaves it out."""
        kept = []
        for job in self.jobs:
            try:
                if test(job) is not False:
                    kept.append(job)
            except Exception as error:
                show_trace(error)
                self.failures[job.row] = sentence(error)
        self.jobs = kept


def default_output(video: Path) -> Path:
    from ..video import result_suffix

    return video.parent / f"{video.stem}_edited{result_suffix(video)}"


def read_rows(
    manifest: Path,
    folder: Path,
    settings: "EditSettings",
    column_map: Sequence[str] = (),
    *,
    compare: bool = False,
    allow_outside: bool = False,
) -> Rows:
    """The rows of a manifest; results go to `folder`, under the name in a row's `output` if it has one. Columns named
    like settings count above `settings`.

    Raises:
        UserError: for a manifest that cannot be read.
    """
    from ..data.manifest import parse_column_map, read_manifest

    given = read_manifest(manifest, column_map=parse_column_map(column_map), required=("src_video", "prompt"))
    rows, unused = Rows(), {}
    for number, row in enumerate(given, start=1):
        rows.count = number
        unused |= dict.fromkeys(_unused_columns(row))
        try:
            job = _job(row, number, folder, settings, allow_outside)
            rows.jobs.append(replace(job, with_compare=compare))
        except UserError as error:
            rows.failures[number] = str(error)
    rows.unused = list(unused)
    return rows


def _job(row: "Row", number: int, folder: Path, settings: "EditSettings", allow_outside: bool) -> Job:
    from ..data.manifest import is_url

    if row.src_video is None or row.prompt is None:
        raise UserError("it lacks its video or its prompt; fill it in or remove the row")
    if is_url(row.src_video):
        raise UserError(f"it names {row.src_video}; fetch it and name the local file")
    video = Path(row.src_video)
    output = row.extra.get("output", f"{number:04d}_{default_output(video).name}")
    texts = {name: text for name, text in row.extra.items() if setting_of(name)}
    return Job(
        video=video,
        prompt=row.prompt,
        output=_below(folder, output, allow_outside),
        settings=with_texts(settings if row.mask is None else replace(settings, mask=row.mask), texts),
        row=number,
    )


def _below(folder: Path, output: str, allow_outside: bool) -> Path:
    if "\0" in output:
        raise UserError("its output holds a zero byte, which no name can; give another")
    path = folder / output
    if not allow_outside and not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"its output {output} is outside of {folder}; name a file inside, or pass --allow-outside if you trust the "
            "manifest"
        )
    return path


def _unused_columns(row: "Row") -> list[str]:
    fields_given = [name for name in _UNUSED_FIELDS if getattr(row, name) is not None]
    return [*fields_given, *(name for name in row.extra if name != "output" and setting_of(name) is None)]


def setting_of(column: str) -> str | None:
    """The field of `EditSettings` that a column gives, in any spelling of the options; "size" gives both sides."""
    from ..editing import EditSettings

    name = option_of(column).removeprefix("--").replace("-", "_")
    return name if name == "size" or name in {setting.name for setting in fields(EditSettings)} else None


def with_texts(settings: "EditSettings", columns: Mapping[str, str]) -> "EditSettings":
    """`settings`, with what a row's columns give.

    Raises:
        UserError: for a value that is not of the setting's kind or out of its range, or one given twice.
    """
    values: dict[str, Any] = {}
    for column, text in columns.items():
        given = _values(column, text)
        if twice := given.keys() & values.keys():
            raise UserError(f"{column} and another column both give `{min(twice)}`; leave one empty")
        values |= given
    return replace(settings, **values)


def _values(column: str, text: str) -> dict[str, Any]:
    from ..editing import EditSettings

    setting = setting_of(column)
    if setting is None:
        raise ValueError(f"{column} is no setting of an edit")
    if setting == "size":
        size = parse_size(text)
        if size is None:
            raise UserError(f"{column} must be WIDTHxHEIGHT, for example 832x480, got {text!r}")
        return {"width": size[0], "height": size[1]}
    hint = get_type_hints(EditSettings)[setting]
    kinds = get_args(hint) or (hint,)
    if bool in kinds:
        return {setting: _truth(column, text)}
    try:
        if setting in ("start", "end"):
            return {setting: parse_time(text)}
        return {setting: _whole(text) if int in kinds else float(text) if float in kinds else text}
    except typer.BadParameter as error:
        raise UserError(f"{column}: {error}") from error
    except ValueError as error:
        raise UserError(f"{column} must be a {'whole ' if int in kinds else ''}number, got {text!r}") from error


def _truth(column: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise UserError(f"{column} must be true or false, got {text!r}")
    return word in ("true", "yes", "1")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)  # tables with gaps write 7.0
        if not number.is_integer():
            raise ValueError(text) from None
        return int(number)


def _refuse_collisions(rows: Rows) -> None:
    """Rows that would write the same file, or the source of any row, fail: also those whose names differ only in
    letters that some disks take for the same."""
    writers: dict[str, list[int]] = defaultdict(list)
    for job in rows.jobs:
        for path in job.outputs:
            writers[_key(path)].append(job.row)
    sources = {_identity(job.video): job.row for job in rows.jobs}

    def alone(job: Job) -> None:
        for path in job.outputs:
            others = [row for row in writers[_key(path)] if row != job.row]
            if others:
                raise UserError(f"it and row {others[0]} would both write {path.name}; give each an output of its own")
            source_of = sources.get(_identity(path)) if path.exists() else None
            if source_of not in (None, job.row):
                raise UserError(f"its output {path.name} is the source of row {source_of}; name another")

    rows.keep(alone)


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path.resolve())).casefold()


def _identity(path: Path) -> tuple[int, int] | None:
    """Of a file that is there, under whatever name."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _is_done(job: Job, loading: "Loading", model: "ModelInfo") -> bool:
    """Whether the result is there already.

    Raises:
        UserError: if it is there, but was not made from the same.
    """
    from ..editing import differences, read_sidecar

    if not job.output.exists():
        return False
    record = read_sidecar(job.output)
    if record is None:
        raise UserError(f"{job.output} exists without the record of an edit; move it away or pass `overwrite`")
    changed = differences(record, job.video, job.prompt, job.settings.resolved(model), loading.provenance)
    if changed:
        names = [f"`{name}`" if hasattr(job.settings, name) else name for name in changed]
        raise UserError(
            f"{job.output} exists and was made with another {', '.join(names)}; "
            "pass `overwrite` to make all results again, or choose another `output`"
        )
    if (record.get("result") or {}).get("size") not in (None, job.output.stat().st_size):
        raise UserError(f"{job.output} exists, but is not as its record says; move it away or pass `overwrite`")
    return True


@dataclass(kw_only=True)
class EditBatch:
    """What a manifest's rows have in common.

    Args:
        manifest: its file.
        folder: where results and the record of failures go.
        rows: what the manifest asks for; those that fail leave its jobs.
        overwrite: make results again that are there.
        keep_going: a row that fails does not stop the others.
    """

    manifest: Path
    folder: Path
    rows: Rows
    overwrite: bool
    keep_going: bool = True
    _sources: "dict[int, VideoReader]" = field(default_factory=dict)

    @property
    def record(self) -> Path:
        """Of the rows that failed, one JSON object a line; there is none where none did."""
        return self.folder / f"{self.manifest.stem}.failures.jsonl"

    def check_files(self) -> None:
        """What needs no model: sources that can be read, outputs that can be written.

        Raises:
            UserError: if no row is left.
        """
        if self.rows.unused:
            remark(f"columns not used: {', '.join(self.rows.unused)}")
        _refuse_collisions(self.rows)
        self.rows.keep(self._check_files)
        self._check_any()

    def _check_files(self, job: Job) -> None:
        if self.overwrite or not job.output.exists():
            self._sources[job.row] = check_files(job, overwrite=self.overwrite, makes_folder=True)

    def plan(self, loading: "Loading", model: "ModelInfo") -> "dict[int, EditPlan]":
        """Plans of the rows that are still to be edited, by their numbers; those that are done leave `rows` too.

        Raises:
            UserError: if no row is done or left.
        """
        from ..editing import check_edit

        plans, done = {}, []

        def plan(job: Job) -> bool:
            if not self.overwrite and _is_done(job, loading, model):
                done.append(job)
                return False
            source = self._sources.pop(job.row)
            plans[job.row] = check_edit(source, job.prompt, job.output, job.settings, model, compare=job.with_compare)
            return True

        with ProgressBar() as progress:
            if any(job.output.exists() for job in self.rows.jobs) and not self.overwrite:
                progress("comparing with the results that exist", 0, 1)
            self.rows.keep(plan)
        _say_done(done, self.rows.count)
        if not done:
            self._check_any()
        return plans

    def _check_any(self) -> None:
        if self.rows.failures and not self.rows.jobs:
            raise UserError(f"no row of {self.manifest.name} can be edited: {_briefly(self.rows.failures)}")

    def run(self, load: "Callable[[], EditAll]") -> None:
        """Edits what is left; rows that fail are said and recorded at once.

        Args:
            load: gives what edits jobs, and says of each, in any order, which error it had.

        Raises:
            UserError: for a full disk, which no other row would survive.
        """
        jobs, done = self.rows.jobs, 0
        if not jobs:
            self._write_record()
            return
        for folder in {job.output.parent for job in jobs}:
            sweep(folder)
        try:
            edit_all = load()
            self._write_record()
            for job, error in edit_all(jobs):
                if error is None:
                    done += 1
                else:
                    self._fail(job, error)
                    if not self.keep_going:
                        remark(f"sama: stopped after {done} of {len(jobs)} edits; the same command resumes")
                        return
        except (KeyboardInterrupt, UserError) as stop:
            if isinstance(stop, KeyboardInterrupt) or is_about_a_full_disk(stop):
                stop.add_note(f"stopped after {done} of {len(jobs)} edits; the same command resumes")
            raise

    def _fail(self, job: Job, error: Exception) -> None:
        show_trace(error)
        self.rows.failures[job.row] = sentence(error)
        remark(f"row {job.row} failed: {self.rows.failures[job.row]}")
        self._write_record()
        if is_about_a_full_disk(error):
            raise error

    def _write_record(self) -> None:
        if not self.rows.failures:
            self.record.unlink(missing_ok=True)
            return
        with folder_made(self.folder), written_aside(self.record) as aside:
            lines = [json.dumps({"row": row, "error": why}) for row, why in sorted(self.rows.failures.items())]
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def end(self, *, recorded: bool) -> None:
        """Exit code 1 if any row failed; how many, and where it says why."""
        failures = self.rows.failures
        if not failures:
            return
        count = f"{len(failures)} of {self.rows.count} rows of {self.manifest.name} failed"
        why = f"{self.record} says why, and the same command tries them again" if recorded else _briefly(failures)
        remark(f"sama: {count}: {why}")
        raise typer.Exit(FAILED)


def check_files(job: Job, *, overwrite: bool, makes_folder: bool, sheet: Path | None = None) -> "VideoReader":
    """The opened source, with all checked of an edit's files that can be without a model; a `sheet` is one of them.

    Raises:
        UserError: for what does not do.
    """
    from ..editing import check_names, check_outputs
    from ..video import VideoReader, check_output_suffix

    reader = VideoReader(job.video, job.settings.max_source_pixels)
    check_output_suffix(job.output, reader.info.is_image)
    if makes_folder and not job.output.parent.is_dir():
        check_names(job.output, job.compare, sheet)
        check_folder(job.output.parent)
    else:
        check_outputs(job.video, job.output, job.compare, sheet, overwrite=overwrite)
    return reader


def _briefly(failures: Mapping[int, str]) -> str:
    shown = [f"row {row}: {why}" for row, why in sorted(failures.items())[:_SHOWN_FAILURES]]
    more = len(failures) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _say_done(done: list[Job], count: int) -> None:
    from ..editing import knows_its_source, read_sidecar

    if not done:
        return
    say(f"{len(done)} of {count} results exist already")
    records = [read_sidecar(job.output) for job in done]
    old = sum(record is not None and not knows_its_source(record) for record in records)
    if old:
        remark(
            f"note: {old} of them were made by an earlier version, whose records do not say what the source held; it "
            "is taken to be unchanged (--overwrite makes all results again)"
        )
