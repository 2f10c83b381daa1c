"""Every named dataset is read in its own columns, cut down to what the paper takes of it."""

import json

import pytest

from sama_video.data.catalogue import CATALOGUE, catalogue_table, find_dataset, read_dataset
from sama_video.data.manifest import Row
from sama_video.system.errors import UserError


def write_json(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return path


def test_the_stages_train_on_what_table_1_lists():
    stages = [{card.name for card in CATALOGUE if stage in card.stages} for stage in (0, 1)]
    assert stages[0] == {"NHR-Edit", "GPT-Image-Edit", "X2Edit", "Koala-36M", "MotionBench"}
    assert stages[1] == {"NHR-Edit", "Pico-Banana-400K", "Ditto-1M", "OpenVE-3M", "ReCo-Data"}
    assert all((card.num_pairs is None) == (card.stages == ()) for card in CATALOGUE)


def test_names_may_be_written_loosely():
    assert find_dataset("nhr_edit").name == "NHR-Edit"
    assert find_dataset("Senorita-2M") is find_dataset("Señorita-2M")
    with pytest.raises(UserError, match=r"unknown dataset 'laion'; use one of NHR-Edit, .*Señorita-2M"):
        find_dataset("laion")


def test_nhr_edit(tmp_path):
    record = {"sample_id": "7", "source_file_name": "images/a.jpg", "edited_file_name": "images/b.jpg"}
    rest = {"edit_instruction": "add a hat", "category": "Add", "img_width": 64}
    row = read_dataset("NHR-Edit", write_json(tmp_path / "metadata.jsonl", record | rest))[0]
    images = {"src_video": str(tmp_path / "images/a.jpg"), "tgt_video": str(tmp_path / "images/b.jpg")}
    assert row == Row(id="7", prompt="add a hat", type="Add", extra={"img_width": "64"}, **images)


def test_pico_banana_prefers_the_local_source(tmp_path):
    record = {"open_image_input_url": "https://example.org/a.jpg", "output_image": "images/1.png", "text": "x"}
    path = write_json(tmp_path / "sft.jsonl", record, record | {"local_input_image": "/photos/a.jpg"})
    rows = list(read_dataset("Pico-Banana-400K", path))
    assert [row.src_video for row in rows] == ["https://example.org/a.jpg", "/photos/a.jpg"]
    assert rows[0].tgt_video == str(tmp_path / "images/1.png")


def test_koala_needs_the_clips_that_a_user_cut(tmp_path):
    path = tmp_path / "koala.csv"
    path.write_text("videoID,url,timestamp,caption\nv,https://example.org/v,0-1,a dog\n")
    with pytest.raises(UserError, match="no tgt_video"):
        read_dataset("Koala-36M", path)
    path.write_text("videoID,url,timestamp,caption,video\nv,https://example.org/v,0-1,a dog,clips/v.mp4\n")
    row = read_dataset("Koala-36M", path)[0]
    assert (row.src_video, row.tgt_video, row.prompt) == (None, str(tmp_path / "clips/v.mp4"), "a dog")


def test_motionbench(tmp_path):
    record = {"video_path": "a.mp4", "motion_caption": "a dog turns left"}
    row = read_dataset("MotionBench", write_json(tmp_path / "train.jsonl", record))[0]
    assert row == Row(id="00000001", tgt_video=str(tmp_path / "videos/a.mp4"), prompt="a dog turns left")


def test_ditto_keeps_the_style_subset(tmp_path):
    folders = ("global_style1", "global_freeform1", "local", "global_style2")
    records = [
        {"source_path": "source/a.mp4", "edited_path": f"{name}/{number}.mp4", "instruction": name}
        for number, name in enumerate(folders)
    ]
    path = write_json(tmp_path / "training_metadata" / "all.json", *records)
    rows = read_dataset("Ditto-1M", path)
    assert [row.prompt for row in rows] == ["global_style1", "global_style2"]
    assert rows[0].src_video == str(tmp_path / "videos/source/a.mp4")
    assert [row.id for row in rows] == ["00000001", "00000004"]
    assert len(read_dataset("Ditto-1M", path, whole=True)) == 4
    only = write_json(tmp_path / "training_metadata" / "local.json", records[2])
    with pytest.raises(UserError, match=r"takes of Ditto-1M \(style\)"):
        read_dataset("Ditto-1M", only)


def test_openve_is_chosen_by_file(tmp_path):
    text = "original_video,video,prompt\na/1.mp4,b/1.mp4,x\n"
    for name in ("local_change", "background_change", "global_style", "local_remove"):
        (tmp_path / f"{name}.csv").write_text(text)
    for name in ("local_change", "background_change", "global_style"):
        row = read_dataset("OpenVE-3M", tmp_path / f"{name}.csv", root=tmp_path)[0]
        assert (row.src_video, row.tgt_video) == (str(tmp_path / "a/1.mp4"), str(tmp_path / "b/1.mp4"))
    with pytest.raises(UserError, match="no rows of what the paper takes"):
        read_dataset("OpenVE-3M", tmp_path / "local_remove.csv")
    assert len(read_dataset("OpenVE-3M", tmp_path / "local_remove.csv", whole=True)) == 1


def test_reco_names_media_from_the_datasets_folder(tmp_path):
    record = {"src_video": "add/src_videos/a.mp4", "tar_video": "add/tar_videos/a.mp4"}
    rest = {"instruction_final_refine": "add a dog", "instruction": "draft"}
    path = write_json(tmp_path / "add" / "add_data_configs.json", record | rest)
    row = read_dataset("reco-data", path)[0]
    assert row.src_video == str(tmp_path / "add/src_videos/a.mp4")
    assert row.tgt_video == str(tmp_path / "add/tar_videos/a.mp4")
    assert (row.prompt, row.extra) == ("add a dog", {"instruction": "draft"})


@pytest.mark.parametrize(
    "card", [card for card in CATALOGUE if card.kind != "text-to-video"], ids=lambda card: card.name
)
def test_every_dataset_may_come_as_a_plain_manifest(card, tmp_path):
    path = tmp_path / "style.csv"
    path.write_text("src_video,tgt_video,prompt\n/a.mp4,/global_style1/b.mp4,x\n")
    row = read_dataset(card.name, path)[0]
    assert (row.src_video, row.tgt_video, row.prompt) == ("/a.mp4", "/global_style1/b.mp4", "x")


def test_the_table_names_every_dataset_and_doubt():
    lines = catalogue_table().splitlines()
    assert len(lines) == len(CATALOGUE) + 2
    assert len({line.count("|") for line in lines}) == 1
    for card, line in zip(CATALOGUE, lines[2:], strict=True):
        assert card.name in line
        assert card.url in line
        assert line.endswith(f"| {'yes' if card.fields_verified else 'no'} |")
