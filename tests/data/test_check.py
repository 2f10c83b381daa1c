"""A check finds every kind of bad row, never stops at one, and ends the same however often it was interrupted."""

import errno
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import av
import fsspec
import numpy as np
import PIL.Image
import pytest

from sama_video.data.check import check_manifest, check_media
from sama_video.data.manifest import Manifest, Row, read_manifest, write_manifest
from sama_video.system.errors import UserError
from tests.clips import picture, write_clip
from tests.commands import ended_by, sama, start_sama

RESULTS = ("clean.csv", "rejected.csv", "report.json")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips and pictures that differ in one thing each."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "source.mp4", 9)
    write_clip(folder / "target.mp4", 9, gop=3)
    write_clip(folder / "short.mp4", 5)
    write_clip(folder / "wide.mp4", 9, width=160)
    write_clip(folder / "turned.mp4", 9, rotation=90)
    write_clip(folder / "tall.mp4", 9, height=128, width=96)
    shutil.copy(folder / "source.mp4", folder / "copy.mp4")
    (folder / "text.mp4").write_text("no film")
    (folder / "nothing.mp4").write_bytes(b"")
    for name, index in (("source.png", 0), ("target.png", 5)):
        PIL.Image.fromarray(picture(index)).save(folder / name)
    cut = (folder / "source.png").read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    return folder


def pair(clips, source="source.mp4", target="target.mp4", **fields) -> Row:
    media = {name: str(clips / value) for name, value in fields.items() if name in ("mask", "ref_image")}
    rest = {"id": "1", "prompt": "x", **fields, **media}
    return Row(src_video=str(clips / source), tgt_video=str(clips / target), **rest)


def manifest_of(rows, folder) -> Manifest:
    write_manifest(folder / "m.csv", rows)
    return read_manifest(folder / "m.csv")


def check(rows, folder, **options):
    return check_manifest(manifest_of(rows, folder), folder / "out", workers=2, **options)


def results(folder):
    return [(folder / name).read_bytes() for name in RESULTS]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"source": "turned.mp4", "target": "tall.mp4"},
        {"source": "source.png", "target": "target.png"},
        {"mask": "target.mp4"},
        {"mask": "source.png"},
        {"ref_image": "source.png"},
    ],
)
def test_pairs_that_fit_pass(clips, tmp_path, fields):
    report = check([pair(clips, **fields)], tmp_path)
    assert (report.num_clean, report.reasons, report.warnings) == (1, {}, {})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"target": "none.mp4"}, "missing file"),
        ({"target": "text.mp4"}, "unreadable file"),
        ({"target": "nothing.mp4"}, "unreadable file"),
        ({"source": "source.png", "target": "cut.png"}, "unreadable file"),
        ({"ref_image": "none.png"}, "missing file"),
        ({"target": "short.mp4"}, "frame counts of src_video and tgt_video differ"),
        ({"target": "wide.mp4"}, "sizes of src_video and tgt_video differ"),
        ({"target": "turned.mp4"}, "sizes of src_video and tgt_video differ"),
        ({"mask": "short.mp4"}, "frame counts of src_video and mask differ"),
        ({"mask": "wide.mp4"}, "sizes of src_video and mask differ"),
        ({"target": "target.png"}, "image and video mixed"),
        ({"prompt": None}, "empty prompt"),
        ({"prompt": "  "}, "empty prompt"),
    ],
)
def test_every_reason_to_reject_a_row(clips, tmp_path, fields, reason):
    good = pair(clips, id="0", prompt="y")
    report = check([good, pair(clips, **fields)], tmp_path)
    assert report.reasons == {reason: 1}
    assert list(read_manifest(tmp_path / "out" / "clean.csv")) == [good]
    assert [row.id for row in read_manifest(tmp_path / "out" / "rejected.csv")] == ["1"]


def damaged(path: Path, spoil) -> Path:
    """A film whose index is at its beginning, spoilt behind it."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode())
    assert check_media(str(path)).problem is None
    path.write_bytes(spoil(bytearray(path.read_bytes())))
    return path


def test_damaged_films(tmp_path):
    def flip(content):
        half = len(content) // 2
        content[half : half + 300] = bytes(byte ^ 0x5A for byte in content[half : half + 300])
        return content

    for spoil in (lambda content: content[: len(content) * 2 // 3], flip):
        report = check_media(str(damaged(tmp_path / "film.mp4", spoil)))
        assert report.problem is not None
        assert report.problem.reason == "damaged file"
        assert 0 < report.num_frames < 40


@pytest.mark.parametrize("codec", [("film.mkv", "libx264"), ("film.avi", "mpeg4"), ("film.mpg", "mpeg2video")])
def test_sound_films_in_other_containers_are_not_taken_for_damaged(tmp_path, codec):
    report = check_media(str(write_clip(tmp_path / codec[0], 12, codec=codec[1])))
    assert (report.problem, report.num_frames, report.height, report.width) == (None, 12, 96, 128)


def test_repetitions(clips, tmp_path):
    rows = [
        pair(clips, id="1", target="none.mp4"),
        pair(clips, id="1"),  # the first row of that id was no good
        pair(clips, id="1", prompt="y"),
        pair(clips, id="2"),
        pair(clips, id="3", source="copy.mp4"),
        pair(clips, id="4", prompt="z"),
    ]
    report = check(rows, tmp_path)
    assert report.reasons == {"duplicate": 2, "id used before": 1, "missing file": 1}
    assert list(read_manifest(tmp_path / "out" / "clean.csv")) == [rows[1], rows[5]]
    rejected = read_manifest(tmp_path / "out" / "rejected.csv")
    assert "same files and prompt as row 1" in rejected[-1].extra["reason"]


def test_a_target_like_its_source_is_a_warning(clips, tmp_path):
    report = check([pair(clips, id="7", target="copy.mp4")], tmp_path)
    assert report.num_clean == 1
    assert report.warnings == {"target equals source": ["7"]}


def test_captioned_clips_need_no_source(clips, tmp_path):
    row = Row(id="1", tgt_video=str(clips / "target.mp4"), prompt="x")
    assert check([row], tmp_path, required=("tgt_video", "prompt")).num_clean == 1
    assert check([row], tmp_path).reasons == {"empty src_video": 1}


def test_other_columns_stay(clips, tmp_path):
    row = pair(clips, type="style", extra={"seed": "007", "caption": 'a, "b"\n'})
    check([row, replace(row, id="2")], tmp_path)
    assert list(read_manifest(tmp_path / "out" / "clean.csv")) == [row]
    rejected = read_manifest(tmp_path / "out" / "rejected.csv")[0]
    assert rejected == replace(row, id="2", extra={**row.extra, "reason": "same files and prompt as row 1"})


def test_files_at_urls(clips, tmp_path):
    for name in ("source.mp4", "target.mp4", "text.mp4"):
        with fsspec.open(f"memory://films/{name}", "wb") as file:
            file.write((clips / name).read_bytes())
    urls = {name: f"memory://films/{name}.mp4" for name in ("source", "target", "text", "none")}
    rows = [
        Row(id=name, src_video=urls["source"], tgt_video=urls[name], prompt="x") for name in ("target", "text", "none")
    ]
    report = check(rows, tmp_path)
    assert report.reasons == {"missing file": 1, "unreadable file": 1}
    assert list(read_manifest(tmp_path / "out" / "clean.csv")) == rows[:1]
    assert urls["text"] in (tmp_path / "out" / "rejected.csv").read_text()


def test_the_report_counts_what_passed(clips, tmp_path):
    rows = [pair(clips), pair(clips, id="2", source="short.mp4", target="short.mp4"), pair(clips, id="3", prompt=None)]
    report = check(rows, tmp_path)
    assert (report.frame_counts, report.sizes) == ({5: 1, 9: 1}, {"128x96": 2})
    assert report.summary()[0] == "2 of 3 rows passed, 1 rejected"
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["sizes"] == report.sizes


def test_results_do_not_depend_on_the_number_of_workers(clips, tmp_path):
    names = ("target.mp4", "none.mp4", "short.mp4", "wide.mp4", "text.mp4", "copy.mp4")
    manifest = manifest_of([pair(clips, id=name, target=name) for name in names], tmp_path)
    for workers in (1, 3):
        check_manifest(manifest, tmp_path / str(workers), workers=workers)
    assert results(tmp_path / "1") == results(tmp_path / "3")


def test_only_files_that_changed_are_looked_at_again(clips, tmp_path):
    for name in ("source.mp4", "target.mp4"):
        shutil.copy(clips / name, tmp_path / name)
    manifest = manifest_of([pair(tmp_path)], tmp_path)
    journal = tmp_path / "out" / "journal.jsonl"
    assert check_manifest(manifest, tmp_path / "out").num_clean == 1
    before = journal.read_bytes()
    check_manifest(manifest, tmp_path / "out")
    assert journal.read_bytes() == before
    shutil.copy(clips / "short.mp4", tmp_path / "target.mp4")
    assert check_manifest(manifest, tmp_path / "out").num_clean == 0
    added = journal.read_bytes().removeprefix(before).splitlines()
    assert [Path(json.loads(line)["media"]).name for line in added] == ["target.mp4"]
    (tmp_path / "target.mp4").unlink()
    assert check_manifest(manifest, tmp_path / "out").reasons == {"missing file": 1}


def test_a_full_disk_keeps_what_was_done(clips, tmp_path, monkeypatch):
    manifest = manifest_of([pair(clips)], tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left.*to resume"):
            check_manifest(manifest, tmp_path / "out")
    assert not (tmp_path / "out" / "clean.csv").exists()
    assert check_manifest(manifest, tmp_path / "out").num_clean == 1


def many(folder, number) -> Path:
    """A manifest of `number` different pairs, every third of them bad."""
    folder.mkdir()
    content = write_clip(folder / "source.mp4", 24, height=240, width=320).read_bytes()
    lines = ["src_video,tgt_video,prompt"]
    for index in range(number):
        # A box of another size at the end makes another file of the same film.
        box = bytes(index + 1)
        (folder / f"{index}.mp4").write_bytes(content + (8 + len(box)).to_bytes(4, "big") + b"free" + box)
        lines.append(f"source.mp4,{index}.mp4,{'' if index % 3 == 2 else 'x'}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def interrupted(manifest, out, lines, how) -> str:
    """A check that gets the signal once its journal has so many lines: what it said on its way out."""
    journal, errors = out / "journal.jsonl", manifest.with_name("errors.txt")
    command = ["data", "check", manifest, "--out", out, "--workers", "1"]
    process = start_sama(command, files=(os.devnull, errors))
    while process.is_alive() and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
        time.sleep(0.002)
    ended_by(process, how)
    return errors.read_text()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_like_an_undisturbed_check(tmp_path):
    manifest = many(tmp_path / "films", 150)
    report = check_manifest(read_manifest(manifest), tmp_path / "undisturbed")
    assert report.reasons == {"empty prompt": 50}
    out = tmp_path / "killed"
    for lines, how in ((3, signal.SIGKILL), (25, signal.SIGINT), (50, signal.SIGKILL)):
        errors = interrupted(manifest, out, lines, how)
        assert "Traceback" not in errors
        assert not (out / "clean.csv").exists()
    with open(out / "journal.jsonl", "ab") as journal:
        journal.write(b'{"media": "torn')  # as a crash of the machine may leave it
    assert sama("data", "check", manifest, "--out", out, "--workers", "1").returncode == 1
    assert results(out) == results(tmp_path / "undisturbed")
    lines = (out / "journal.jsonl").read_text().splitlines()
    assert len({json.loads(line)["media"] for line in lines}) == len(lines) == 151


def test_the_command(clips, tmp_path):
    def check_here(*arguments):
        return sama("data", "check", *arguments, cwd=tmp_path)

    write_manifest(tmp_path / "m.csv", [pair(clips)])
    result = check_here("m.csv")
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 of 1 rows passed" in result.stdout
    assert (tmp_path / "m_check" / "clean.csv").exists()
    (tmp_path / "other.csv").write_text(f"before,after,prompt\n{clips}/source.mp4,{clips}/short.mp4,x\n")
    result = check_here(
        "other.csv", "--column_map", "src_video=before", "--column-map", "tgt_video=after", "--workers", 1
    )
    assert result.returncode == 1
    assert "rejected, frame counts of src_video and tgt_video differ: 1" in result.stdout
    result = check_here("s3://bucket/m.csv")
    assert result.returncode == 2
    assert "needs --out" in result.stderr
    result = check_here("other.csv")
    assert result.returncode == 2
    assert "--column-map src_video=COLUMN" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_bad_folders(clips, tmp_path):
    manifest = manifest_of([pair(clips)], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another"):
        check_manifest(manifest, tmp_path / "file")


def test_huge_pictures_do_not_stop_a_check(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    PIL.Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "huge.png")
    row = pair(clips, target=str(tmp_path / "huge.png"))
    assert check([row], tmp_path).reasons == {"unreadable file": 1}
