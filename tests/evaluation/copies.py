"""Small made-up copies of the benchmarks in their authors' layouts, and runs of an editor that changes nothing."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image

from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.layouts import read_items
from sama_video.evaluation.records import PREDICTIONS, VIDEOS, Prediction, RunInfo, write_run
from sama_video.system.files import hash_file
from sama_video.system.journal import Journal
from tests.clips import write_clip

SIZE = {"height": 32, "width": 48}
# As in ReCo's list: the name is cut, loses its stops and commas, and keeps what else there is.
LONG = "Replace the {old} red car, on the left: with a bus. " + "It should be blue, large and slow " * 3


def write_copy(name: str, folder: Path) -> Path:
    """The copy of a benchmark by its name; returns its folder."""
    folder.mkdir(parents=True)
    COPIES[name](folder)
    return folder


def _clips(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        write_clip(folder / name, 9 + index, **SIZE)


def write_reco(folder: Path) -> None:
    _clips(folder / "ori_videos", "1-hd_25fps.mp4", "2.mp4")
    (folder / "configs").mkdir()
    lines = {
        "add": ["# kept", "1-hd_25fps.mp4: Add a dog. ", "", "2.mp4: Add a hat, red | refs/hat.png"],
        "replace": [f"1-hd_25fps.mp4: {LONG}"],
        "remove": ["2.mp4: Remove the tree."],
        "style": ["2.mp4: Make it a sketch", "2.mp4: Make it an oil painting"],
    }
    for task, entries in lines.items():
        (folder / f"configs/{task}.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    (folder / "refs").mkdir()
    PIL.Image.new("RGB", (8, 8)).save(folder / "refs/hat.png")


OPENVE_TYPES = (
    "global_style",
    "background_change",
    "local_change",
    "local_remove",
    "local_add",
    "subtitle_edit",
    "creative_edit",
    "camera_edit",
)


def write_openve(folder: Path) -> None:
    names = [f"{index:04d}_{task}_Apply.mp4" for index, task in enumerate(OPENVE_TYPES)]
    _clips(folder / "videos", *names)
    with (folder / "benchmark_videos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["edited_type", "prompt", "original_video"])
        for task, name in zip(OPENVE_TYPES, names, strict=True):
            # Users rename the folder that the list speaks of.
            writer.writerow([task, f'Do "{task}", please', f"OpenVE-Bench/videos/{name}"])


def write_vie(folder: Path) -> None:
    _clips(folder / "videos", "a.mp4", "b.mp4")
    categories = ["Add", "Swap", "Change", "Remove", "Style Change", "Tone Change", "Ref-Based Swap", "Hybrid Edit"]
    rows = [
        {"source_video": f"videos/{'ab'[index % 2]}.mp4", "instruction": f"{category}!", "category": category}
        for index, category in enumerate(categories)
    ]
    (folder / "vie_bench.json").write_text(json.dumps(rows), encoding="utf-8")


def write_five(folder: Path) -> None:
    _clips(folder / "videos", "0001_bus.mp4")
    masks = folder / "bmasks/0001_bus"
    masks.mkdir(parents=True)
    for index in range(1, 10):
        pixels = np.zeros((SIZE["height"], SIZE["width"]), np.uint8)
        pixels[8:24, 8:24] = 255
        PIL.Image.fromarray(pixels).save(masks / f"{index:05d}.jpg")
    (folder / "edit_prompt").mkdir()
    for number in range(1, 7):
        entry = {
            "editing_type_id": str(number),
            "video_name": "0001_bus",
            "save_dir": f"edit{number}",
            "source_prompt": "a [green] bus",
            "target_prompt": f"a [{number}] bus",
        }
        (folder / f"edit_prompt/edit{number}_FiVE.json").write_text(json.dumps([entry]), encoding="utf-8")


def write_editverse(folder: Path) -> None:
    _clips(folder / "videos", "174008.mp4")
    PIL.Image.new("RGB", (8, 8)).save(folder / "videos/ref.png")
    common = {"<video1>": "videos/174008.mp4", "target_prompt": "", "direction": "horizontal"}
    entries = {
        "0": {"<text>": "<video1> Add a crown.", "type": "add object", **common},
        "1": {"<text>": "Give <video1> the hat of <image1>.", "<image1>": "videos/ref.png", "type": "insert", **common},
        "2": {"<text>": "<video1> like <video2>", "<video2>": "videos/174008.mp4", "type": "propagate", **common},
    }
    (folder / "EditVerseBench.json").write_text(json.dumps(entries), encoding="utf-8")


def write_vefx(folder: Path) -> None:
    _clips(folder / "originals", "a.mp4", "b.mp4")
    rows = [
        {"original_video": f"originals/{name}.mp4", "instruction": "Zoom in.", "category": "Camera Motion"}
        for name in "ab"
    ]
    (folder / "benchmark.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


COPIES = {
    "reco_bench": write_reco,
    "openve_bench": write_openve,
    "vie_bench": write_vie,
    "five_bench": write_five,
    "editverse_bench": write_editverse,
    "vefx_bench": write_vefx,
}


def write_lazy_run(name: str, copy: Path, run: Path, *, without: int = 1) -> Path:
    """A run whose editor returns the source; it fails on the last of the items, and `without` more have no record."""
    benchmark = find_benchmark(name)
    items = read_items(benchmark, copy)
    write_run(run, RunInfo(benchmark=name, version=benchmark.version, data=str(copy), editor="lazy"), items)
    with Journal(run / PREDICTIONS) as journal:
        for item in items[: len(items) - 1 - without]:
            path = run / VIDEOS / item.task / item.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.source, path)
            file = str(path.relative_to(run))
            journal.append(vars(Prediction(item=item.id, status="ok", file=file, sha256=hash_file(path), seconds=0.1)))
        journal.append(vars(Prediction(item=items[-1].id, status="failed", reason="out of memory")))
    return run
