"""A small manifest of pairs to judge, and the files that a run leaves."""

from pathlib import Path

import PIL.Image

from sama_video.curation.rules import CurationConfig
from sama_video.data.manifest import Row, write_manifest
from sama_video.judge.clips import MediaConfig
from sama_video.judge.questions import JudgeConfig
from tests.clips import picture, write_clip

DERIVED = ("scores.jsonl", "kept.csv", "rejected.csv", "report.json", "report.md", "histogram.png")


def write_pairs(folder: Path, videos: int = 3, images: int = 2) -> Path:
    """A manifest of readable pairs, a copy of the first under another name, and an unreadable one."""
    rows = []
    for index in range(videos):
        source = write_clip(folder / f"{index}.mp4", 3 + index, height=32, width=48)
        target = write_clip(folder / f"{index}_edited.mp4", 4 + index, height=32, width=48)
        rows.append(Row(id=f"video-{index}", src_video=str(source), tgt_video=str(target), prompt=f"{{edit}} {index}"))
    for index in range(images):
        paths = [folder / f"{index}.png", folder / f"{index}_edited.png"]
        for number, path in enumerate(paths):
            PIL.Image.fromarray(picture(2 * index + number, 32, 48)).save(path)
        rows.append(Row(id=f"image-{index}", src_video=str(paths[0]), tgt_video=str(paths[1]), prompt="make it\n“new”"))
    (folder / "broken.mp4").write_bytes(b"not a video")
    rows.append(Row(id="broken", src_video=str(folder / "broken.mp4"), tgt_video=rows[0].tgt_video, prompt="edit"))
    write_manifest(folder / "pairs.csv", rows)
    return folder / "pairs.csv"


def quick_config(base_url: str, turns: int = 3, **judge) -> CurationConfig:
    media = MediaConfig(num_frames=2, long_side=32)
    settings = {"base_delay": 0.001, "max_delay": 0.002, "concurrency": 3, "timeout": 5.0, "media": media, **judge}
    config = JudgeConfig(model="judge", base_url=base_url, **settings)
    return CurationConfig(judge=config, turns=turns)


def derived_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DERIVED}
