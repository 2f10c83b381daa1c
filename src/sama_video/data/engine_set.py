"""The synthetic engine's pairs as files: source, target and mask of each, and a manifest of them all.

A set grows in several processes and may be stopped at any time: what is complete stays, the same command continues.
Since a seed determines every pair, the manifest is written from the drafts alone, once all files are there.
"""

import json
import os
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from ..synth.engine import VERSION, Draft, Engine, EnginePair, find_split, index_of, render_draft
from ..synth.footage import find_footage
from ..system.errors import UserError
from ..system.files import make_folder, written_aside
from ..system.workers import Progress, worker_pool
from ..video import write_lossless
from .manifest import Row, read_manifest, write_manifest

_CHUNK = 8
_SETTINGS = "engine.json"


@dataclass(frozen=True, kw_only=True)
class EngineSetConfig:
    """What determines a set's bytes.

    Args:
        split, seed, families, loose, vocabulary, footage_fraction: as in `synth.engine.Engine`.
        num_frames: 1 writes PNG pictures instead of clips.
        images, videos: folders of the user's backgrounds.
        all_footage: use all that these folders hold, not the split's part of it: for files that no training sees.
    """

    split: str = "train"
    seed: int = 0
    families: tuple[str, ...] = Engine.families
    loose: float = 0.0
    vocabulary: tuple[str, ...] = ()
    num_frames: int = 17
    height: int = 128
    width: int = 128
    fps: int = 16
    images: str | None = None
    videos: str | None = None
    footage_fraction: float = Engine.footage_fraction
    all_footage: bool = False

    def __post_init__(self) -> None:
        if self.height % 2 or self.width % 2:
            raise UserError(f"height and width must be even, got {self.height}x{self.width}")
        if min(self.height, self.width) < 64 or self.num_frames < 1 or self.fps < 1 or not 0 <= self.loose <= 1:
            raise UserError("frames must be at least 64x64, `num_frames` and `fps` at least 1, `loose` between 0 and 1")
        if not 0 <= self.footage_fraction <= 1:
            raise UserError(f"`footage_fraction` must be between 0 and 1, got {self.footage_fraction:g}")

    def engine(self, cache: Path) -> Engine:
        """Raises UserError for an unknown split, family or thing, or footage without a file for the split."""
        try:
            split = None if self.all_footage else find_split(self.split).scenes
            return Engine(
                split=self.split,
                seed=self.seed,
                families=self.families,
                loose=self.loose,
                vocabulary=self.vocabulary,
                footage=find_footage(self.images, self.videos, split, cache),
                footage_fraction=self.footage_fraction,
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def draft(self, index: int, out: Path) -> Draft:
        """What sample `index` shows of the set in `out`. Raises UserError as `engine`."""
        return _engine(self, out).draft(index, moving=self.num_frames > 1)

    def render(self, draft: Draft) -> EnginePair:
        """A draft at the set's size and length."""
        return render_draft(draft, self.num_frames, self.height, self.width)


def write_engine_set(
    config: EngineSetConfig,
    out: Path,
    count: int,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
) -> Path:
    """Write pairs 0 to `count` - 1 into `out`; returns the manifest. A larger count later continues from there.

    Raises:
        UserError: for a folder that holds a set of other settings, or a longer one; a full disk; footage that cannot be
            used.
    """
    if count < 1:
        raise UserError(f"`count` must be at least 1, got {count}")
    if workers is not None and workers < 1:
        raise UserError(f"`workers` must be at least 1, got {workers}")
    make_folder(out)
    manifest = out / "manifest.csv"
    _claim(config, out)
    _refuse_to_shorten(manifest, count)
    for kind in ("source", "target", "mask"):
        (out / kind).mkdir(exist_ok=True)
    drafts = [config.draft(index, out) for index in range(count)]
    missing = [index for index, draft in enumerate(drafts) if not _complete(config, out, draft)]
    done = count - len(missing)
    progress("samples", done, count)
    chunks = [missing[first : first + _CHUNK] for first in range(0, len(missing), _CHUNK)]
    workers = min(workers or os.cpu_count() or 1, max(len(chunks), 1))
    with worker_pool(workers) as pool:
        for future in as_completed([pool.submit(_write_pairs, config, out, chunk) for chunk in chunks]):
            done += future.result()
            progress("samples", done, count)
    write_manifest(manifest, [_row(config, out, draft) for draft in drafts])
    return manifest


def _claim(config: EngineSetConfig, out: Path) -> None:
    """A folder holds one set: files of other settings must not mix."""
    note = out / _SETTINGS
    if not note.exists():
        with written_aside(note) as aside:
            aside.write_text(json.dumps({"engine": VERSION, **asdict(config)}, indent=1))
    elif read_engine_set(out) != config:
        raise UserError(f"{out} holds a set of other settings (see {note.name}); choose another `out`")


def read_engine_set(out: Path) -> EngineSetConfig:
    """The settings of the set in a folder.

    Raises:
        UserError: for a folder that holds no set, or one that another version of the engine made.
    """
    try:
        settings = json.loads((out / _SETTINGS).read_text())
        version = settings.pop("engine")
        tuples = {name: tuple(settings.get(name, ())) for name in ("families", "vocabulary")}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{out} holds no set of the synthetic engine; 'sama data synth' makes one") from error
    if version != VERSION:
        raise UserError(
            f"version {version} of the engine made the set in {out}, and this is version {VERSION}: it can be read by "
            "its manifest, but not continued; choose another folder for a new one"
        )
    return EngineSetConfig(**settings | tuples)


def folder_of_set(file: Path) -> Path:
    """Where the set is that a source, target or mask belongs to."""
    return file.resolve().parent.parent


def find_draft(file: Path, draft_id: str) -> tuple[EngineSetConfig, Draft]:
    """The settings of the set that a source, target or mask belongs to, and what the sample of this id shows.

    Raises:
        UserError: for a file of no set of this version of the engine.
    """
    out = folder_of_set(file)
    config = read_engine_set(out)
    try:
        draft = config.draft(index_of(draft_id), out)
    except ValueError as error:
        raise UserError(f"{draft_id} is no sample of the engine's set in {out}") from error
    if draft.id != draft_id:
        raise UserError(f"{draft_id} is no sample of the engine's set in {out}")
    return config, draft


def _refuse_to_shorten(manifest: Path, count: int) -> None:
    """Somebody may train on the set that is there."""
    listed = len(read_manifest(manifest)) if manifest.exists() else 0
    if listed > count:
        raise UserError(f"{manifest} lists {listed} samples; pass `count` {listed} or more, or choose another `out`")


def _files(config: EngineSetConfig, out: Path, draft: Draft) -> dict[str, Path]:
    suffix = ".png" if config.num_frames == 1 else ".mp4"
    return {kind: out / kind / f"{draft.id}{suffix}" for kind in ("source", "target", "mask")}


def _complete(config: EngineSetConfig, out: Path, draft: Draft) -> bool:
    return all(path.exists() for path in _files(config, out, draft).values())


@cache
def _engine(config: EngineSetConfig, out: Path) -> Engine:
    """Once a process: footage is hashed and cut into shots when it is opened."""
    return config.engine(out / "films")


def _write_pairs(config: EngineSetConfig, out: Path, indices: list[int]) -> int:
    """In a process of its own."""
    for index in indices:
        _write_pair(config, out, config.render(config.draft(index, out)))
    return len(indices)


def _write_pair(config: EngineSetConfig, out: Path, pair: EnginePair) -> None:
    mask = np.repeat(pair.mask[..., None] * np.uint8(255), 3, axis=-1)
    pixels = {"source": pair.source, "target": pair.target, "mask": mask}
    for kind, path in _files(config, out, pair.draft).items():
        with written_aside(path) as aside:
            write_lossless(aside, pixels[kind], Fraction(config.fps))


def _row(config: EngineSetConfig, out: Path, draft: Draft) -> Row:
    files = {kind: str(path.resolve()) for kind, path in _files(config, out, draft).items()}
    return Row(
        id=draft.id,
        src_video=files["source"],
        tgt_video=files["target"],
        mask=files["mask"],
        prompt=draft.instruction,
        type=draft.family,
        extra={
            "kind": draft.edit.kind,
            "caption": draft.caption,
            "target_caption": draft.target_caption,
            "exact": str(draft.edit.exact).lower(),
            "split": draft.split,
        },
    )
