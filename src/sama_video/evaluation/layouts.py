"""A user's copy of a benchmark, in its authors' layout -> items. One function a layout.

What every copy must hold is said by the messages: they name the first file that is missing and count the others.
"""

import collections
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.engine_set import read_engine_set
from ..data.manifest import LAYOUTS, SUFFIXES, Layout, Row, read_manifest
from ..system.data_files import table_beside
from ..system.errors import UserError
from .benchmark import Benchmark, Item
from .names import safe_stem, shortened
from .pairs import manifest_items

# ReCo's file names end after so many characters of the instruction.
_RECO_NAME_LENGTH = 80
_KNOWN = table_beside(__file__)
_LENIENT = Layout(**_KNOWN["lenient"])


def read_items(benchmark: Benchmark, folder: Path) -> list[Item]:
    """The items of a user's copy, in the benchmark's order of tasks.

    Raises:
        UserError: for a folder that does not hold the benchmark, missing videos, or items that share an id or a file.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; download {benchmark.title} and name its folder")
    tasks = [task.key for task in benchmark.tasks]
    items = sorted(READERS[benchmark.layout](benchmark, folder), key=lambda item: tasks.index(item.task))
    if not items:
        raise UserError(f"{folder} holds no item of {benchmark.title}; is the download complete?")
    _check_media(items, benchmark)
    _check_unique([item.id for item in items], "id")
    _check_unique([f"{item.task}/{item.file_name}" for item in items], "file name")
    return items


def _check_media(items: Sequence[Item], benchmark: Benchmark) -> None:
    wanted = [path for item in items for path in (item.source, item.target, item.mask, item.reference) if path]
    missing = [path for path in dict.fromkeys(wanted) if not path.exists()]
    if missing:
        raise UserError(
            f"files of {benchmark.title} are missing, {len(missing)} in all, the first is {missing[0]}; complete the "
            "download"
        )


def _check_unique(names: Iterable[str], what: str) -> None:
    twice = [name for name, number in collections.Counter(names).items() if number > 1]
    if twice:
        raise UserError(
            f"items of equal {what}, {len(twice)} in all, the first is {twice[0]}; correct the benchmark's lists"
        )


def _first(benchmark: Benchmark, folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` that is there."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder} is no copy of {benchmark.title}: it has no {' or '.join(names)}")


def _read_reco(benchmark: Benchmark, folder: Path) -> list[Item]:
    """`configs/TASK.txt` with lines `VIDEO: INSTRUCTION [| REFERENCE]`, `ori_videos/VIDEO`."""
    configs = _first(benchmark, folder, ("configs", "tools/configs", "ReCo-Bench/configs"))
    beside = configs.parent.relative_to(folder)
    videos = _first(
        benchmark, folder, tuple(f"{parent}/{name}" for name in ("ori_videos", "videos") for parent in (beside, "."))
    )
    items = []
    for task in benchmark.tasks:
        path = _first(benchmark, configs, (f"{task.key}.txt",))
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        entries = [line for line in lines if line and not line.startswith("#")]
        items += [_reco_item(task.key, number, line, videos) for number, line in enumerate(entries, 1)]
    return items


def _reco_item(task: str, number: int, line: str, videos: Path) -> Item:
    video, _, rest = line.partition(":")
    instruction, _, reference = (part.strip() for part in rest.partition("|"))
    if not instruction:
        raise UserError(f"{task}.txt of ReCo-Bench: {line!r} is not of the form VIDEO: INSTRUCTION; correct it")
    name = reco_file_name(video.strip(), instruction)
    return Item(
        id=f"{task}/{number:04d}",
        task=task,
        instruction=instruction,
        source=videos / video.strip(),
        # 80 characters of some languages are more bytes than a name can have.
        file_name=shortened(name.removesuffix(".mp4").replace("\x00", "_"), ".mp4"),
        reference=videos.parent / reference if reference else None,
        results=(name,),
    )


def reco_file_name(video: str, instruction: str) -> str:
    """What ReCo's scripts call an edit."""
    words = instruction.replace(" ", "_").replace(".", "").replace(",", "").replace(":", " ")
    return f"{video.replace('.mp4', '')}_{words[:_RECO_NAME_LENGTH]}.mp4".replace("/", "_")


def _read_openve(benchmark: Benchmark, folder: Path) -> list[Item]:
    """`benchmark_videos.csv` with `edited_type, prompt, original_video`; paths begin at the copy's folder or above."""
    path = _first(benchmark, folder, ("benchmark_videos.csv",))
    items = []
    for number, row in enumerate(_rows(path), 1):
        task = benchmark.task(str(row.type)).key
        item = _lenient_item(task, f"{task}/{number:04d}", row, folder)
        items.append(replace(item, file_name=shortened(f"{item.source.stem}_edited", ".mp4")))
    return items


def _found(media: str, folder: Path) -> Path:
    """Where a listed file is: lists count from their own folder or from the one above, or name files of `videos`."""
    listed, root = Path(media), Path(os.path.abspath(folder))
    above = [root.parent / listed.relative_to(root)] if listed.is_relative_to(root) else []
    candidates = [listed, *above, root / "videos" / listed.name]
    return next((path for path in candidates if path.exists()), listed)


def _rows(path: Path) -> list[Row]:
    """Rows with a video and an instruction; others ask for nothing that can be scored."""
    rows = read_manifest(path, required=("src_video", "prompt"), layouts=(*LAYOUTS, _LENIENT), map_option=None)
    return [row for row in rows if row.src_video and row.prompt]


def _read_vie(benchmark: Benchmark, folder: Path) -> list[Item]:
    """Manifests with a category a row, or one manifest a category."""
    items = []
    for path, row in _lenient_rows(benchmark, folder):
        task = vie_group(_category(row) or path.stem)
        if task:
            items.append(_lenient_item(task, f"{task}/{path.stem}-{row.id}", row, folder))
    return items


def vie_group(category: str) -> str:
    """One of the four groups of the paper's Table 2; empty for the categories that it leaves out."""
    for group, words in _KNOWN["vie_groups"].items():
        if any(word in category.lower() for word in words):
            return group
    return ""


def _read_vefx(benchmark: Benchmark, folder: Path) -> list[Item]:
    """Manifests with a video and an instruction a row."""
    return [
        _lenient_item("edit", f"{_slug(_category(row) or path.stem)}/{path.stem}-{row.id}", row, folder)
        for path, row in _lenient_rows(benchmark, folder)
    ]


def _lenient_rows(benchmark: Benchmark, folder: Path) -> list[tuple[Path, Row]]:
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not paths:
        raise UserError(
            f"{folder} is no copy of {benchmark.title}: it has no list ({', '.join(SUFFIXES)}) of its edits"
        )
    return [(path, row) for path in paths for row in _rows(path)]


def _category(row: Row) -> str:
    return row.type or row.task or row.extra.get("category") or ""


def _lenient_item(task: str, name: str, row: Row, folder: Path) -> Item:
    source = _found(str(row.src_video), folder)
    return Item(
        id=name,
        task=task,
        instruction=str(row.prompt),
        source=source,
        file_name=shortened(f"{name.rpartition('/')[2]}_{source.stem}", ".mp4"),
        mask=Path(row.mask) if row.mask else None,
        reference=Path(row.ref_image) if row.ref_image else None,
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _read_fivebench(benchmark: Benchmark, folder: Path) -> list[Item]:
    """`edit_prompt/editN_FiVE.json` with `video_name, save_dir, source_prompt, target_prompt`; `videos/NAME.mp4`; masks
    as folders of frames, `bmasks/NAME/00001.jpg`."""
    prompts = _first(benchmark, folder, ("edit_prompt", "data/edit_prompt"))
    items = []
    for task in benchmark.tasks:
        path = _first(benchmark, prompts, (f"{task.key}_FiVE.json",))
        items += [_five_item(task.key, entry, prompts.parent) for entry in _json(path)]
    return items


def _five_item(task: str, entry: dict[str, Any], folder: Path) -> Item:
    video, edit = entry["video_name"], entry["save_dir"]
    # Brackets mark the words in which the two captions differ.
    caption = entry["target_prompt"].replace("[", "").replace("]", "")
    mask = folder / "bmasks" / video
    return Item(
        id=f"{task}/{video}/{edit}",
        task=task,
        instruction=entry.get("instruction") or entry.get("editing_instruction") or caption,
        source=folder / "videos" / f"{video}.mp4",
        file_name=shortened(f"{video}_{edit}".replace("/", "_"), ".mp4"),
        mask=mask if mask.exists() else None,
        results=_five_results(task, entry),
    )


def _five_results(task: str, entry: dict[str, Any]) -> tuple[str, ...]:
    """Where the authors' evaluation looks for the frames of an edit (each method has its own last folder), and what
    their editor calls its videos."""
    video, edit = entry["video_name"], entry["save_dir"]
    last_folders = [f"{video}/{edit}/{last}" for last in _KNOWN["five_last_folders"]]
    kind = task.removeprefix("edit")
    return (
        f"{video}/{edit}",
        *last_folders,
        f"{task}/{video}",
        f"{video}/{edit}.mp4",
        f"{video}/{kind}_{entry['target_prompt'][:20]}.mp4",
    )


def _read_editverse(benchmark: Benchmark, folder: Path) -> list[Item]:
    """`EditVerseBench.json` or `test.json`: id -> `<text>, <video1>, type`, with tags of the inputs in the text."""
    names = ("EditVerseBench.json", "test.json")
    path = _first(benchmark, folder, (*names, *(f"EditVerseBench/{name}" for name in names)))
    entries = _json(path)
    # A second video or picture is an input that an editor of (video, instruction, reference) cannot be given.
    return [
        _editverse_item(key, entry, path.parent)
        for key, entry in entries.items()
        if "<video1>" in entry and not {"<video2>", "<image2>"} & entry.keys()
    ]


def _editverse_item(key: str, entry: dict[str, Any], folder: Path) -> Item:
    reference = entry.get("<image1>")
    return Item(
        id=f"{_slug(entry['type'])}/{key}",
        task="edit",
        instruction=re.sub(r"\s*<video1>\s*", " ", entry["<text>"]).strip(),
        source=folder / entry["<video1>"],
        file_name=f"{safe_stem(key)}.mp4",
        reference=folder / reference if reference else None,
        results=(f"{key}/generate.mp4",),
    )


def _read_engine(benchmark: Benchmark, folder: Path) -> list[Item]:
    """A set of the synthetic engine, see `pairs.make_engine_set`."""
    manifest = _first(benchmark, folder, ("manifest.csv",))
    split = read_engine_set(folder).split
    if split != benchmark.engine["split"]:
        raise UserError(f"{folder} holds a set of the split {split}, not {benchmark.engine['split']}; leave out `data`")
    return manifest_items(read_manifest(manifest))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from error


READERS: dict[str, Callable[[Benchmark, Path], list[Item]]] = {
    "reco": _read_reco,
    "openve": _read_openve,
    "vie": _read_vie,
    "fivebench": _read_fivebench,
    "editverse": _read_editverse,
    "vefx": _read_vefx,
    "engine": _read_engine,
}
