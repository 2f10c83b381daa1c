from pathlib import Path

import pytest

from sama_video.data.engine_set import EngineSetConfig
from sama_video.data.manifest import read_manifest
from sama_video.errors import UserError
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.pairs import edited_files, read_manifest_items


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
        ("id,src_video,prompt\na/b,a.mp4,x\na:b,b.mp4,x\n", "make ids unique"),
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
    with pytest.raises(UserError, match="--edited COLUMN"):
        edited_files(rows, "edited")
