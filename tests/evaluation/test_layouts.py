"""Copies of benchmarks are read in their authors' layouts, and what is missing is named."""

import json

import pytest

from sama_video.evaluation.benchmark import benchmark_names, find_benchmark
from sama_video.evaluation.layouts import read_items, reco_file_name, vie_group
from sama_video.system.errors import UserError
from tests.evaluation.copies import COPIES, OPENVE_TYPES, write_copy


@pytest.mark.parametrize("name", COPIES)
def test_every_layout_gives_items_that_can_be_edited(name, tmp_path):
    benchmark = find_benchmark(name)
    items = read_items(benchmark, write_copy(name, tmp_path / "copy"))
    assert len({item.id for item in items}) == len(items) > 0
    assert len({(item.task, item.file_name) for item in items}) == len(items)
    assert [item.task for item in items] == sorted((item.task for item in items), key=_order(benchmark))
    for item in items:
        assert item.source.is_file()
        assert item.instruction
        assert "/" not in item.file_name
        assert item.reference is None or item.reference.is_file()


def _order(benchmark):
    tasks = [task.key for task in benchmark.tasks]
    return tasks.index


def test_recos_names_are_the_authors(tmp_path):
    items = read_items(find_benchmark("reco-bench"), write_copy("reco_bench", tmp_path / "copy"))
    assert [item.file_name for item in items[:2]] == ["1-hd_25fps_Add_a_dog.mp4", "2_Add_a_hat_red.mp4"]
    assert items[1].instruction == "Add a hat, red"
    assert items[1].reference == tmp_path / "copy/refs/hat.png"
    # Stops and commas go, colons become spaces, and then 80 characters stay.
    name = reco_file_name("1.mp4", "a: b, c. " + "d" * 200)
    assert name == "1_" + ("a _b_c_" + "d" * 200)[:80] + ".mp4"


def test_openves_types_are_tasks_and_a_renamed_folder_is_found(tmp_path):
    items = read_items(find_benchmark("openve_bench"), write_copy("openve_bench", tmp_path / "mine"))
    assert [item.task for item in items] == list(OPENVE_TYPES)
    assert items[0].file_name == "0000_global_style_Apply_edited.mp4"


def test_vies_four_groups_leave_out_references_and_mixtures(tmp_path):
    items = read_items(find_benchmark("vie_bench"), write_copy("vie_bench", tmp_path / "copy"))
    assert [item.task for item in items] == ["add", "swap", "swap", "remove", "style", "style"]
    assert vie_group("Reference-based Add") == vie_group("Hybrid Edit") == ""


def test_fives_masks_and_captions(tmp_path):
    items = read_items(find_benchmark("five_bench"), write_copy("five_bench", tmp_path / "copy"))
    assert items[2].mask == tmp_path / "copy/bmasks/0001_bus"
    assert items[2].instruction == "a 3 bus"


def test_editverses_tags_go_and_second_videos_are_left_out(tmp_path):
    items = read_items(find_benchmark("editverse_bench"), write_copy("editverse_bench", tmp_path / "copy"))
    assert [item.id for item in items] == ["add_object/0", "insert/1"]
    assert [item.instruction for item in items] == ["Add a crown.", "Give the hat of <image1>."]


@pytest.mark.parametrize("name", COPIES)
def test_another_folder_is_no_copy(name, tmp_path):
    with pytest.raises(UserError, match="no copy of"):
        read_items(find_benchmark(name), tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_items(find_benchmark(name), tmp_path / "none")


def test_missing_videos_are_named_and_counted(tmp_path):
    copy = write_copy("reco_bench", tmp_path / "copy")
    (copy / "ori_videos/1-hd_25fps.mp4").unlink()
    (copy / "refs/hat.png").unlink()
    with pytest.raises(UserError, match=r"ReCo-Bench are missing, 2 in all, the first is .*1-hd_25fps.mp4"):
        read_items(find_benchmark("reco_bench"), copy)


def test_items_that_would_share_a_file_are_refused(tmp_path):
    copy = write_copy("reco_bench", tmp_path / "copy")
    (copy / "configs/remove.txt").write_text("2.mp4: Remove it.\n2.mp4: Remove it\n")
    with pytest.raises(UserError, match="equal file name, 1 in all"):
        read_items(find_benchmark("reco_bench"), copy)
    (copy / "configs/remove.txt").write_text("2.mp4 Remove it\n")
    with pytest.raises(UserError, match="VIDEO: INSTRUCTION"):
        read_items(find_benchmark("reco_bench"), copy)


def test_broken_lists_are_named(tmp_path):
    copy = write_copy("editverse_bench", tmp_path / "copy")
    (copy / "EditVerseBench.json").write_text(json.dumps({})[:1])
    with pytest.raises(UserError, match=r"EditVerseBench.json is not JSON"):
        read_items(find_benchmark("editverse_bench"), copy)


@pytest.mark.parametrize("name", benchmark_names())
def test_benchmarks_say_what_they_ask(name):
    benchmark = find_benchmark(name)
    assert benchmark.about
    for task in benchmark.tasks:
        assert bool(task.prompt) == bool(task.blocks) == (benchmark.protocol is not None)
        names = [dimension for block in task.blocks for dimension in block.dimensions]
        assert len(set(names)) == len(names)
        if task.prompt:
            assert task.prompt.count("{instruction}") == task.prompt.count("{shown}") == 1
            assert "{rubric}" not in task.prompt
            assert all(block.key in task.prompt for block in task.blocks if len(task.blocks) > 1)
    for prompts in benchmark.authors:
        assert prompts.constants.keys() == {task.key for task in benchmark.tasks}
