"""Items from what this project writes and reads anyway: the synthetic engine's sets, and manifests of any tool."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.engine_set import EngineSetConfig, write_engine_set
from ..data.manifest import Manifest, Row, is_url, read_manifest, resolve
from ..synth.sprites import find_vocabulary
from ..system.errors import UserError
from ..system.workers import Progress
from ..video import H264_SUFFIXES, IMAGE_SUFFIXES
from .benchmark import Benchmark, Item
from .names import safe_stem, told_apart

_UNTYPED = "all"


def make_engine_set(benchmark: Benchmark, folder: Path, progress: Progress = lambda *_: None) -> Path:
    """Write the set that a benchmark's `engine` describes, or complete it; returns its manifest.

    Raises:
        UserError: for a folder that holds another set, or cannot be written.
    """
    settings = dict(benchmark.engine)
    count, vocabulary = settings.pop("count"), find_vocabulary(settings.pop("vocabulary", ""))
    config = EngineSetConfig(vocabulary=vocabulary, **settings)
    return write_engine_set(config, folder, count, progress=progress)


def read_manifest_items(manifest: str, *, column_map: Mapping[str, str] | None = None) -> list[Item]:
    """Edits to be made, from a manifest with sources and instructions, and targets and masks where they are known.

    Raises:
        UserError: for a manifest or row that cannot be used.
    """
    return manifest_items(read_manifest(manifest, column_map=column_map, required=("src_video", "prompt")))


def manifest_items(rows: Sequence[Row]) -> list[Item]:
    """Items in the rows' order; a row's type is its task.

    Raises:
        UserError: for a row without source or instruction, with media at a URL, or with the id of another.
    """
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(f"two rows have the id {row.id}; make ids unique or leave the column out")
        seen.add(row.id)
    stems = told_apart((row.id, safe_stem(row.id)) for row in rows)
    return [_item(row, stem) for row, stem in zip(rows, stems, strict=True)]


def _item(row: Row, stem: str) -> Item:
    if row.src_video is None or row.prompt is None:
        raise UserError(f"row {row.id} lacks its video or its instruction; fill it in or remove it")
    media = {"source": row.src_video, "target": row.tgt_video, "mask": row.mask, "reference": row.ref_image}
    for url in filter(None, media.values()):
        if is_url(url):
            raise UserError(f"row {row.id} names {url}; fetch it and name the local file")
    files: dict[str, Any] = {name: Path(file) for name, file in media.items() if file is not None}
    suffix = files["source"].suffix if files["source"].suffix.lower() in IMAGE_SUFFIXES | H264_SUFFIXES else ".mp4"
    return Item(
        id=row.id,
        task=safe_stem(row.type or _UNTYPED),
        instruction=row.prompt,
        file_name=f"{stem}{suffix}",
        **files,
    )


def edited_files(rows: Manifest, column: str) -> dict[str, Path | None]:
    """What a manifest's column says was made of each row, by its id; None where the row leaves it empty.

    Raises:
        UserError: if there is no such column.
    """
    files: dict[str, Path | None] = {}
    for row in rows:
        media = getattr(row, column) if column == "tgt_video" else row.extra.get(column)
        files[row.id] = Path(resolve(media, rows.root)) if media else None
    if not any(files.values()):
        raise UserError(f"the manifest has no column {column!r} of edited videos; name it with `edited` COLUMN")
    return files
