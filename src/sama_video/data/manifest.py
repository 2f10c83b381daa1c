"""Manifests: which source, target and instruction belong together, in the columns of every tool that users come from.

A manifest is CSV (see `delimited.py`), JSON, JSONL or Parquet, a local file or an fsspec URL. Capitals and blanks in
the names of known columns do not matter. Whatever its columns are called, a `Row` has
this project's names: `src_video, tgt_video, prompt`, and where known `id, type, task, ref_image, mask`. An image in a
video column is a clip of one frame. `layouts.yaml` lists what other tools call these; `choose_layout` holds the rule.

The readers are ours, since those of pyarrow and pandas guess types (an id 007 becomes 7) and do not name a broken line.
"""

import contextlib
import csv
import itertools
import json
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast, overload

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from ..system.errors import UserError
from ..system.files import written_aside
from .delimited import open_text, read_delimited

MEDIA_FIELDS = ("src_video", "tgt_video", "ref_image", "mask")
FIELDS = ("id", "src_video", "tgt_video", "prompt", "type", "task", "ref_image", "mask")
# What the fields are called in prose, and may be in a map of columns.
SPOKEN = {"source": "src_video", "target": "tgt_video"}
EDIT_PAIR = ("src_video", "tgt_video", "prompt")
CAPTIONED = ("tgt_video", "prompt")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_ID_DIGITS = 8
_BATCH_ROWS = 16384
MAP_OPTION = "`column_map` "
# What a row says of its target; `datasets.py` believes it.
SHAPE_COLUMNS = ("num_frames", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pair. Media are absolute local paths or fsspec URLs; what a manifest leaves empty is None.

    Args:
        id: as given, or the row's number from 1 on in `_ID_DIGITS` digits.
        src_video: to edit; None for plain captioned clips.
        tgt_video: the edited one; None where an edit is still to be made.
        prompt: the instruction, for captioned clips the caption.
        type: kind of edit ("style", "remove").
        task: finer kind, or a pretext task.
        ref_image: picture that the instruction refers to.
        mask: where the edit happens.
        extra: the manifest's other columns that are not empty in this row, as text; nested values as JSON.
    """

    id: str
    src_video: str | None = None
    tgt_video: str | None = None
    prompt: str | None = None
    type: str | None = None
    task: str | None = None
    ref_image: str | None = None
    mask: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


# The same everywhere, so a layout names them only where it differs.
_COMMON_COLUMNS = {"id": ("id",), "type": ("type",), "task": ("task",), "ref_image": ("ref_image",), "mask": ("mask",)}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What one tool calls the fields: for each field the columns that may hold it, the first that is there counts.

    A media field takes, row by row, the first of its columns that is not empty: manifests that mix videos and images
    have a column for each.
    """

    name: str
    columns: Mapping[str, Sequence[str]]

    def find(self, available: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The columns of `available` for each field that has any."""
        available = set(available)
        found = {}
        for name, columns in {**_COMMON_COLUMNS, **self.columns}.items():
            present = tuple(column for column in columns if column in available)
            if present:
                found[name] = present if name in MEDIA_FIELDS else present[:1]
        return found


LAYOUTS = tuple(Layout(**each) for each in yaml.safe_load((Path(__file__).parent / "layouts.yaml").read_text("utf-8")))


def choose_layout(
    available: Sequence[str],
    required: Iterable[str],
    layouts: Sequence[Layout] = LAYOUTS,
    *,
    map_option: str | None = MAP_OPTION,
) -> Layout:
    """The layout of a manifest with the columns `available`.

    The rule: of the layouts that have a column for every required field, the one that finds the most of source,
    target and prompt; of several such the first in `layouts`. So `video` is the target beside `vace_video`, the source
    where only source and prompt are required, and the target where only target and prompt are.

    Args:
        map_option: how the command at hand is told the column of a field, for the message; None: it cannot be told.

    Raises:
        UserError: if no layout has all required fields; says which columns would do.
    """
    required = set(required)
    fitting = [layout for layout in layouts if required <= layout.find(available).keys()]
    if fitting:
        # max returns the first of equals
        return max(fitting, key=lambda layout: len(layout.find(available).keys() & set(EDIT_PAIR)))
    reachable = set().union(*(layout.find(available).keys() for layout in layouts))
    # Every field alone may be there, only no tool has them in this combination: then all count as missing.
    missing = [name for name in FIELDS if name in required - reachable] or [n for n in FIELDS if n in required]
    wanted = "; ".join(f"{name} (tried {', '.join(_aliases(name, layouts))})" for name in missing)
    remedy = "rename the column" if map_option is None else f"name the column with {map_option}{missing[0]}=COLUMN"
    raise UserError(f"no known layout fits the columns {', '.join(available)}: there is no {wanted}; {remedy}")


def _aliases(name: str, layouts: Sequence[Layout]) -> list[str]:
    tables = [{**_COMMON_COLUMNS, **layout.columns} for layout in layouts]
    return list(dict.fromkeys(column for table in tables for column in table.get(name, ())))


class Manifest(Sequence[Row]):
    """Rows over a table of text: sized, indexable, sliceable, iterable; cheap for millions of rows.

    Args:
        table: the columns `FIELDS`, media as written in the manifest, then the extra ones; null where empty.
        root: folder or URL of relative media.
    """

    def __init__(self, table: pa.Table, root: str):
        self.table = table
        self.root = root

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Manifest": ...
    def __getitem__(self, index: int | slice) -> "Row | Manifest":
        if isinstance(index, slice):
            numbers = pa.array(range(*index.indices(len(self))), pa.int64())
            return Manifest(self.table.take(numbers), self.root)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a manifest of {len(self)} rows")
        return self._row({name: self.table[name][index].as_py() for name in self.table.column_names})

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=_BATCH_ROWS):
            yield from map(self._row, batch.to_pylist())

    def where(self, keep: pa.ChunkedArray | pa.Array) -> "Manifest":
        """The rows where the booleans `keep` are true; null counts as false."""
        return Manifest(self.table.filter(keep), self.root)

    def _row(self, values: dict[str, str | None]) -> Row:
        given = {name: value for name, value in values.items() if value is not None}
        fields = {name: given.pop(name) for name in FIELDS if name in given}
        for name in MEDIA_FIELDS:
            if name in fields:
                fields[name] = resolve(fields[name], self.root)
        return Row(**fields, extra=given)


def read_manifest(
    path: str | Path,
    *,
    column_map: Mapping[str, str] | None = None,
    root: str | Path | None = None,
    required: Sequence[str] = EDIT_PAIR,
    layouts: Sequence[Layout] = LAYOUTS,
    map_option: str | None = MAP_OPTION,
) -> Manifest:
    """The rows of a manifest, whatever tool it was written for.

    Args:
        path: CSV, JSON (a list of objects, or an object that holds one list), JSONL or Parquet; local or an fsspec URL.
        column_map: field (or `source`, `target`) -> column, above what the layouts say.
        root: folder or URL of relative media; by default the manifest's.
        required: fields that must have a column. A row may still leave one empty, see `check.py`.
        layouts: whose names for columns to try.
        map_option: as in `choose_layout`.

    Raises:
        UserError: for a file that cannot be read, one without rows, a broken line, a missing column.
    """
    path = str(path)
    table = _with_known_names(_read_table(path), layouts, path)
    column_map = _checked_column_map(column_map or {}, table.column_names, path, map_option)
    free = [name for name in table.column_names if name not in column_map.values()]
    try:
        layout = choose_layout(free, set(required) - column_map.keys(), layouts, map_option=map_option)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    found = layout.find(free) | {name: (column,) for name, column in column_map.items()}
    return Manifest(_in_our_names(table, found), location(root) if root is not None else folder_of(path))


def _plain(name: str) -> str:
    """A column's name without what people write differently: capitals, blanks, hyphens."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _known_names(layouts: Sequence[Layout]) -> set[str]:
    return {*FIELDS, *SHAPE_COLUMNS}.union(*(_aliases(name, layouts) for name in FIELDS))


KNOWN = {_plain(name) for name in _known_names(LAYOUTS)}


def _with_known_names(table: pa.Table, layouts: Sequence[Layout], path: str) -> pa.Table:
    """Columns that some layout knows, spelled as it spells them; all others as they are.

    Raises:
        UserError: for two columns that are spelled as one.
    """
    known = _known_names(layouts)
    spelling = {_plain(name): name for name in sorted(known)}
    names = [name if name in known else spelling.get(_plain(name), name) for name in table.column_names]
    for index, name in enumerate(names):
        if (first := names.index(name)) < index:
            two = f"{table.column_names[first]!r} and {table.column_names[index]!r}"
            raise UserError(f"cannot read the manifest {path}: its columns {two} have one meaning; rename one")
    return table.rename_columns(names)


def _checked_column_map(
    column_map: Mapping[str, str], available: Sequence[str], path: str, map_option: str | None
) -> dict[str, str]:
    """The map with its columns as the table spells them."""
    spelling = {_plain(name): name for name in available}
    checked = {}
    for given, column in column_map.items():
        name = SPOKEN.get(given, given)
        if name not in FIELDS:
            option = (map_option or "the column map").strip().removesuffix("=")
            raise UserError(f"{option} knows no field {name!r}; use one of {', '.join((*SPOKEN, *FIELDS))}")
        checked[name] = column if column in available else spelling.get(_plain(column), "")
        if not checked[name]:
            raise UserError(f"{path} has no column {column!r} for {name}; it has {', '.join(available)}")
    return checked


def _in_our_names(table: pa.Table, found: Mapping[str, tuple[str, ...]]) -> pa.Table:
    """`FIELDS`, then every column that no field took; one of those that bears a field's name gets a longer one."""
    used = {column for columns in found.values() for column in columns}
    columns: dict[str, object] = {}
    for name in FIELDS:
        sources = [table[column] for column in found.get(name, ())]
        columns[name] = pc.coalesce(*sources) if sources else pa.nulls(table.num_rows, pa.large_string())
    numbers = pa.array([f"{number:0{_ID_DIGITS}d}" for number in range(1, table.num_rows + 1)], pa.large_string())
    columns["id"] = pc.coalesce(columns["id"], numbers)
    for column in table.column_names:
        name = column
        while name in columns:
            name = f"manifest_{name}"
        if column not in used:
            columns[name] = table[column]
    return pa.table(columns)


def _read_table(path: str) -> pa.Table:
    """All columns as text, empty values as null."""
    suffix = _suffix_of(path)
    if suffix not in READERS:
        raise UserError(f"a manifest is {', '.join(SUFFIXES)}, got {path}")
    try:
        with _opened(path) as file:
            table = READERS[suffix](file)
    except (UserError, ImportError) as error:
        raise UserError(f"cannot read the manifest {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read the manifest {path}: it is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read the manifest {path} ({error}); check the path and the file") from error
    if table.num_rows == 0:
        raise UserError(f"the manifest {path} has no rows")
    return table


def _opened(path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    return cast("contextlib.AbstractContextManager[IO[bytes]]", fsspec.open(path, "rb"))


def _read_csv(file: IO[bytes]) -> pa.Table:
    return _table_of(read_delimited(file, lambda name: _plain(name) in KNOWN))


def _read_jsonl(file: IO[bytes]) -> pa.Table:
    def records() -> Iterator[dict]:
        # Splitting text would break lines at rarer separators that JSON leaves inside strings.
        text = open_text(file)
        text.reconfigure(newline="\n")
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                yield _object(json.loads(line))
            except ValueError as error:
                raise UserError(f"line {number} is no JSON object ({error}); mend or remove it") from error

    return _table_of(records())


def _read_json(file: IO[bytes]) -> pa.Table:
    content = json.load(open_text(file))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise UserError(f"expected a list of objects, or an object with one list; this one has {len(lists)}")
        content = lists[0]
    if not isinstance(content, list):
        raise UserError("expected a list of objects, or an object with one list")
    return _table_of(map(_object, content))


def _object(value: object) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def _read_parquet(file: IO[bytes]) -> pa.Table:
    content = pq.ParquetFile(file)
    # Columns of bytes hold media themselves; a manifest names files.
    texts = [column.name for column in content.schema_arrow if not _holds_bytes(column.type)]
    batches = content.iter_batches(_BATCH_ROWS, columns=texts)
    return _table_of(itertools.chain.from_iterable(batch.to_pylist() for batch in batches))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))


READERS: dict[str, Callable[[IO[bytes]], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _table_of(records: Iterator[dict]) -> pa.Table:
    """Records batch by batch, so the Python objects of one batch only are alive at a time."""
    tables = []
    while batch := list(itertools.islice(records, _BATCH_ROWS)):
        names = dict.fromkeys(name for record in batch for name in record)
        columns = {name: [_as_text(record.get(name)) for record in batch] for name in names}
        tables.append(pa.table({name: _texts(values) for name, values in columns.items()}))
    if not tables:
        return pa.table({})
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _texts(values: list[str | None]) -> pa.Array:
    """As `pa.array` makes them, which would import pandas where it is installed: half a second."""
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish().cast(pa.large_string())


def _as_text(value: object) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV, JSONL or Parquet (by suffix) so that `read_manifest` gives the same rows.

    The columns are source, target and prompt, every other field that any row has, and the extra ones. Media below the
    manifest's folder are written relative to it, so the folder may move. Empty text is written like None.

    Raises:
        UserError: for another suffix, a missing or read-only folder, a full disk.
        ValueError: for an extra column with a field's name.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise UserError(f"cannot write a manifest as {path.name}; use one of {', '.join(_WRITERS)}")
    inside = os.path.join(os.path.dirname(os.path.abspath(path)), "")
    table = _table_of(_record(row, inside) for row in rows)
    always = ("id", *EDIT_PAIR)
    present = [name for name in FIELDS if name in always or name in table.column_names]
    order = present + [name for name in table.column_names if name not in present]
    nulls = pa.nulls(table.num_rows, pa.large_string())
    columns = {name: table[name] if name in table.column_names else nulls for name in order}
    with written_aside(path) as aside:
        _WRITERS[path.suffix.lower()](pa.table(columns), aside)


def _record(row: Row, inside: str) -> dict[str, str]:
    clash = row.extra.keys() & set(FIELDS)
    if clash:
        raise ValueError(f"extra columns must not be named like fields, got {', '.join(sorted(clash))}")
    values = {name: value for name in FIELDS if (value := getattr(row, name)) is not None}
    for name in MEDIA_FIELDS:
        if name in values:
            values[name] = values[name].removeprefix(inside)
    return values | row.extra


def _write_csv(table: pa.Table, path: Path) -> None:
    # The default line end, \r\n, makes Python quote values that hold a lone \r.
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            for record in batch.to_pylist():
                # Readers look for the columns of a pair even where every row leaves one empty.
                given = {name: value for name, value in record.items() if value is not None or name in EDIT_PAIR}
                file.write(json.dumps(given, ensure_ascii=False) + "\n")


_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": pq.write_table,
}


def parse_column_map(pairs: Iterable[str], map_option: str = MAP_OPTION) -> dict[str, str]:
    """`["src_video=before", "prompt=what"]`, as options of the command, to a column map.

    Raises:
        UserError: for text without `=`.
    """
    column_map = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            option = map_option.strip().removesuffix("=")
            raise UserError(f"{option} takes FIELD=COLUMN, for example src_video=before, got {pair!r}")
        column_map[name] = column
    return column_map


def is_url(media: str) -> bool:
    return "://" in media


def location(path: str | Path) -> str:
    """A URL as it is, a local path absolute and without `..`."""
    return str(path) if is_url(str(path)) else os.path.abspath(path)


def resolve(media: str, root: str) -> str:
    """`media` below `root` unless it is absolute or a URL."""
    if is_url(media) or os.path.isabs(media):
        return media
    if not is_url(root):
        return os.path.abspath(os.path.join(root, media))
    scheme, folder = root.split("://", 1)
    return f"{scheme}://{posixpath.normpath(posixpath.join(folder, media))}"


def folder_of(path: str) -> str:
    """The folder of a file or URL, absolute."""
    return path.split("?")[0].rsplit("/", 1)[0] if is_url(path) else os.path.dirname(os.path.abspath(path))


def _suffix_of(path: str) -> str:
    return PurePosixPath(path.split("?")[0] if is_url(path) else path).suffix.lower()


@contextlib.contextmanager
def local_file(media: str) -> Iterator[Path]:
    """A row's media as a local file: itself, or a copy of what its URL holds for the time of the context.

    Raises:
        UserError: for a URL that cannot be fetched.
    """
    if not is_url(media):
        yield Path(media)
        return
    with tempfile.TemporaryDirectory(prefix="sama_") as folder:
        # Readers tell images from videos by the suffix.
        copy = Path(folder) / f"media{_suffix_of(media)}"
        try:
            with _opened(media) as remote, open(copy, "wb") as file:
                shutil.copyfileobj(remote, file, 1 << 20)
        except Exception as error:  # every fsspec backend has exceptions of its own
            raise UserError(f"cannot fetch {media} ({error})") from error
        yield copy
