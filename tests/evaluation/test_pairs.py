import hashlib
from pathlib import Path

import pytest

from sama_video.data.engine_set import EngineSetConfig
from sama_video.data.manifest import Row, read_manifest
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.pairs import edited_files, manifest_items, read_manifest_items
from sama_video.system.errors import UserError


def test_the_engine_s_benchmark_has_a_task_a_family_and_six_items_each():
    benchmark = find_benchmark("engine")
    settings = dict(benchmark.engine)
    assert settings.pop("count") == 6 * len(benchmark.tasks)
    config = EngineSetConfig(**settings)
    assert {task.key for task in benchmark.tasks} == set(config.families)
    assert config.split == "test"


def test_the_engine_s_items_know_their_answers(engine_items, engine_folder):
    rows = list(read_manifest(engine_folder / "manifest.csv"))
    assert {(item.id, item.task, item.instruction) for item in engine_items} == {
        (row.id, row.type, row.prompt) for row in rows
    }
    assert {item.task for item in engine_items} == {task.key for task in find_benchmark("engine").tasks}
    for item in engine_items:
        assert item.source.is_file()
        assert item.target is not None
        assert item.mask is not None
        assert item.file_name == f"{item.id}.mp4"


def manifest(folder: Path, text: str) -> str:
    path = folder / "pairs.csv"
    path.write_text(text)
    return str(path)


def test_manifests_of_other_tools_become_items(tmp_path):
    path = manifest(tmp_path, "id,original_video,prompt,edited_type\na/1,one.mov,Add a cat,local add\n,two.webm,x,\n")
    first, second = read_manifest_items(path)
    assert (first.id, first.task, first.file_name) == ("a/1", "local_add", "a_1.mov")
    assert (first.source, first.target, first.mask) == (tmp_path / "one.mov", None, None)
    assert (second.id, second.task, second.file_name) == ("00000002", "all", "00000002.mp4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("src_video,prompt\n,x\n", "lacks its video"),
        ("src_video,prompt\na.mp4,\n", "lacks its video or its instruction"),
        ("src_video,prompt\nhttps://host/a.mp4,x\n", "fetch it"),
        ("id,src_video,prompt\na/b,a.mp4,x\na/b,b.mp4,x\n", "make ids unique"),
        ("src_video,text_to_show\na.mp4,x\n", "no prompt"),
    ],
)
def test_rows_that_cannot_be_edited_say_how_to_mend_them(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_manifest_items(manifest(tmp_path, text))


def test_edited_videos_are_read_from_any_column(tmp_path):
    path = manifest(tmp_path, "id,src_video,prompt,result\n1,a.mp4,x,out/a.mp4\n2,b.mp4,x,\n")
    rows = read_manifest(path, required=("src_video", "prompt"))
    assert edited_files(rows, "result") == {"1": tmp_path / "out" / "a.mp4", "2": None}
    with pytest.raises(UserError, match="`edited` COLUMN"):
        edited_files(rows, "edited")


IDS = {
    "ordinary-7.b": "ordinary-7.b",
    "cat/001": "cat_001",
    "cat:001": "cat_001-{}",
    "..": "_",
    "../../up": "_.._up",
    "x" * 300: "x" * 191 + "-{}",
    "ж" * 300: "ж" * 95 + "-{}",
    "x" * 301: "x" * 191 + "-{}",
    "A": "A",
    "a": "a-{}",
    "caf\u00e9": "caf\u00e9",
    "cafe\u0301": "cafe_-{}",
    "CON": "CON-{}",
    "nul.txt": "nul.txt-{}",
    "new\nline\x00\ud800": "new_line__",
}


def test_any_id_has_a_file_of_its_own_that_any_system_can_hold(tmp_path):
    rows = [Row(id=name, src_video="a.mp4", prompt="x") for name in IDS]
    items = manifest_items(rows)
    for item, expected in zip(items, IDS.values(), strict=True):
        stem = item.file_name.removesuffix(".mp4")
        digest = hashlib.sha256(item.id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        if item.id != "cafe\u0301":  # how an accent apart is written is the system's affair
            assert stem == expected.format(digest)
        assert len(item.file_name.encode()) <= 220
        (tmp_path / item.file_name).write_bytes(b"")
        assert (tmp_path / item.file_name).parent == tmp_path
    assert len({item.file_name.casefold() for item in items}) == len(items)
    assert [item.file_name for item in manifest_items(rows[:5])] == [item.file_name for item in items[:5]]


def test_a_task_is_a_folder_that_any_system_can_hold():
    tasks = [
        manifest_items([Row(id="1", src_video="a.mp4", prompt="x", type=kind)])[0].task
        for kind in ("../up", "local add", "t" * 300, "aux")
    ]
    assert tasks[:2] == ["_up", "local_add"]
    assert len(tasks[2]) == 200
    assert tasks[3].startswith("aux-")
