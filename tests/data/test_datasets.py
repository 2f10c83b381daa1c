import json
import multiprocessing
import os
from dataclasses import replace
from typing import ClassVar

import fsspec
import numpy as np
import PIL.Image
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from sama_video.data.datasets import EDIT, ClipMetadata, ManifestDataset, read_clip
from sama_video.data.file_info import FileInfo, file_version
from sama_video.data.manifest import Row
from sama_video.data.pretext import TEXT_TO_VIDEO
from sama_video.system.errors import UserError
from tests.clips import index_of, write_clip


@pytest.fixture
def rows(tmp_path):
    source, target = write_clip(tmp_path / "a.mp4", 14), write_clip(tmp_path / "b.mp4", 12)
    return [
        Row(id="pair", src_video=str(source), tgt_video=str(target), prompt="make it red"),
        Row(id="clip", tgt_video=str(source), prompt="a bar moves"),
    ]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_metadata_is_what_source_and_target_share(rows):
    dataset = ManifestDataset(rows)
    assert dataset.metadata(0) == ClipMetadata(num_frames=12, height=96, width=128, has_source=True)
    assert dataset.metadata(1) == ClipMetadata(num_frames=14, height=96, width=128, has_source=False)


def test_source_and_target_are_cut_at_the_same_place(rows):
    dataset, starts = ManifestDataset(rows), set()
    for seed in range(12):
        sample = dataset.load(0, (96, 128), 9, generator(seed))
        indices = [[index_of(frame.numpy()) for frame in clip] for clip in (sample.source, sample.target)]
        assert indices[0] == indices[1] == list(range(indices[0][0], indices[0][0] + 9))
        starts.add(indices[0][0])
        recipe = dataset.recipe(0, (96, 128), 9, generator(seed))
        assert recipe.target["start"] == recipe.source["start"] == indices[0][0]
    assert starts == {0, 1, 2, 3}
    assert (sample.task, sample.prompt, sample.name) == (EDIT, "make it red", "pair")


def test_a_row_without_source_is_text_to_video(rows):
    sample = ManifestDataset(rows).load(1, (48, 64), 5, generator())
    assert sample.source is None
    assert sample.task == TEXT_TO_VIDEO
    assert sample.target.shape == (5, 48, 64, 3)
    assert sample.target.dtype == torch.uint8


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 48), (192, 256), (95, 127)])
def test_clips_cover_the_bucket_and_are_cut_around_the_centre(size, tmp_path):
    y, x = np.mgrid[0:60, 0:90]
    gradient = np.stack([x * 2.5, y * 4, 0 * x], axis=-1).astype(np.uint8)
    PIL.Image.fromarray(gradient).save(tmp_path / "a.png")
    clip = read_clip(str(tmp_path / "a.png"), 0, 1, size)[0].float()
    assert clip.shape == (*size, 3)
    assert clip.mean(dim=(0, 1))[:2].tolist() == pytest.approx([111.25, 118], abs=2.5)
    scale = max(size[0] / 60, size[1] / 90)
    spread = (clip[:, -1, 0] - clip[:, 0, 0]).mean(), (clip[-1, :, 1] - clip[0, :, 1]).mean()
    assert float(spread[0]) == pytest.approx(2.5 * (size[1] - 1) / scale, abs=7)
    assert float(spread[1]) == pytest.approx(4 * (size[0] - 1) / scale, abs=7)


def test_broken_clips_are_named(rows, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    dataset = ManifestDataset([Row(id="x", tgt_video=str(tmp_path / "bad.mp4"), prompt="p")])
    with pytest.raises(UserError, match=r"bad\.mp4.*sama data check"):
        dataset.metadata(0)
    with pytest.raises(UserError, match=r"bad\.mp4.*sama data check"):
        read_clip(str(tmp_path / "bad.mp4"), 0, 1, (32, 32))
    with pytest.raises(UserError, match=r"b\.mp4 yields 2 frames from frame 10 on instead of 5.*sama data check"):
        read_clip(rows[0].tgt_video, 10, 5, (32, 32))
    with pytest.raises(UserError, match="row x has no target"):
        ManifestDataset([Row(id="x", src_video=rows[0].src_video, prompt="p")]).metadata(0)
    with pytest.raises(UserError, match="row x has no prompt"):
        ManifestDataset([Row(id="x", tgt_video=rows[0].tgt_video)]).load(0, (32, 32), 5, generator())


def test_recipes_differ_where_pixels_may(rows, tmp_path):
    dataset = ManifestDataset(rows)
    recipe = dataset.recipe(0, (96, 128), 9, generator())
    assert json.loads(json.dumps(recipe.target)) == recipe.target
    assert recipe == dataset.recipe(0, (96, 128), 9, generator())
    others = [dataset.recipe(0, (96, 112), 9, generator()), dataset.recipe(0, (96, 128), 5, generator())]
    assert all(other.target != recipe.target for other in others)
    write_clip(tmp_path / "b.mp4", 12, gop=3)
    assert dataset.recipe(0, (96, 128), 9, generator()).target != recipe.target


def test_facts_are_remembered_until_the_file_changes(rows, tmp_path):
    memory = tmp_path / "facts"
    media = rows[0].tgt_video
    shape = FileInfo(memory).shape(media)
    (file,) = memory.iterdir()
    lines = file.read_text().splitlines()
    assert FileInfo(memory).shape(media) == shape
    assert file.read_text().splitlines() == lines
    with open(file, "a") as stream:
        stream.write('["half a li')
    assert FileInfo(memory).shape(media) == shape
    write_clip(tmp_path / "b.mp4", 7)
    assert FileInfo(memory).shape(media).num_frames == 7


def test_processes_remember_in_files_of_their_own(rows, tmp_path):
    memory = tmp_path / "facts"
    (memory).mkdir()
    known = [f"shape {file_version(rows[0].src_video)} {rows[0].src_video}", [3, 4, 5]]
    (memory / "elsewhere-7.jsonl").write_text(json.dumps(known) + "\n")
    facts = FileInfo(memory)
    assert facts.shape(rows[0].src_video).num_frames == 3
    worker = multiprocessing.get_context("fork").Process(target=facts.shape, args=(rows[0].tgt_video,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert len([*memory.iterdir()]) == 1  # a loader's worker notes nothing: it is one of very many
    facts.shape(rows[0].tgt_video)
    assert len([*memory.iterdir()]) == 2


def test_a_manifest_that_says_what_its_files_hold(rows):
    told = {"num_frames": "9", "height": "96", "width": "128"}
    gone = Row(id="x", src_video="gone.mp4", tgt_video="gone.mp4", prompt="p", extra=told)
    expected = ClipMetadata(num_frames=9, height=96, width=128, has_source=True)
    assert ManifestDataset([gone]).metadata(0) == expected
    for wrong in ({"num_frames": ""}, {"height": "tall"}, {"width": "0"}):
        partly = replace(rows[0], extra=told | wrong)
        assert ManifestDataset([partly]).metadata(0).num_frames == 12
    too_long = replace(rows[0], extra=told | {"num_frames": "13"})
    with pytest.raises(UserError, match="the manifest's num_frames is wrong"):
        ManifestDataset([too_long]).load(0, (96, 128), 13, generator())


def test_a_container_that_does_not_say_its_length(tmp_path):
    clip = write_clip(tmp_path / "a.mpg", 11, codec="mpeg2video")
    assert FileInfo().shape(str(clip)).num_frames == 11


def test_media_at_a_url(rows, tmp_path):
    url = (tmp_path / "a.mp4").as_uri()
    dataset = ManifestDataset([Row(id="remote", tgt_video=url, prompt="a bar moves")])
    remote = dataset.load(0, (48, 64), 5, generator())
    local = ManifestDataset(rows).load(1, (48, 64), 5, generator())
    assert torch.equal(remote.target, local.target)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad = (tmp_path / "bad.mp4").as_uri()
    for look in (FileInfo().shape, lambda media: read_clip(media, 0, 1, (32, 32))):
        with pytest.raises(UserError) as caught:
            look(bad)
        assert bad in str(caught.value)
        assert "media.mp4" not in str(caught.value)


class Silent(MemoryFileSystem):
    """A server that says nothing of a file but its size."""

    protocol = "silent"
    store: ClassVar[dict] = {}

    def info(self, path, **kwargs):
        return {name: value for name, value in super().info(path, **kwargs).items() if name != "created"}


fsspec.register_implementation("silent", Silent, clobber=True)


def put(url, content):
    with fsspec.open(url, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("scheme", ["memory", "silent", "file"])
def test_the_same_url_with_other_content_is_looked_at_again(scheme, tmp_path):
    """Clips of one size in bytes, so that only the server's word, or reading again, tells them apart."""
    memory = tmp_path / "facts"
    url = f"{scheme}://{tmp_path}/served.mp4"
    first, second = (write_clip(tmp_path / f"{frames}.mp4", frames).read_bytes() for frames in (9, 13))
    size = max(len(first), len(second))
    put(url, first.ljust(size, b"\0"))
    before = FileInfo(memory)
    assert before.shape(url).num_frames == 9
    before_hash = before.content_hash(url)
    put(url, second.ljust(size, b"\0"))
    after = FileInfo(memory)
    assert after.shape(url).num_frames == 13
    assert after.content_hash(url) != before_hash
    remembered = [line for file in memory.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert bool(remembered) == (scheme != "silent")


def test_a_url_is_asked_once_in_a_run(tmp_path, monkeypatch):
    url = f"memory://{tmp_path}/served.mp4"
    put(url, write_clip(tmp_path / "a.mp4", 5).read_bytes())
    asked = []
    info = MemoryFileSystem.info
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *call, **rest: asked.append(call) or info(*call, **rest))
    facts = FileInfo()
    facts.shape(url)
    first = len(asked)
    for _ in range(3):
        facts.shape(url)
    assert len(asked) == first


def test_a_file_of_the_same_size_and_time_is_looked_at_again(tmp_path):
    clip, other = tmp_path / "a.bin", tmp_path / "b.bin"
    clip.write_bytes(b"one")
    facts = FileInfo(tmp_path / "facts")
    before, status = facts.content_hash(str(clip)), clip.stat()
    other.write_bytes(b"two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, clip)
    assert FileInfo(tmp_path / "facts").content_hash(str(clip)) != before


def test_a_row_without_words_is_said_before_training():
    told = {"num_frames": "9", "height": "96", "width": "128"}
    for row, message in (
        (Row(id="7", tgt_video="a.mp4", extra=told), "row 7 has no prompt"),
        (Row(id="7", tgt_video="a.mp4", prompt="  ", extra=told), "row 7 has no prompt"),
        (Row(id="7", prompt="x", extra=told), "row 7 has no target video"),
    ):
        with pytest.raises(UserError, match=message):
            ManifestDataset([row]).metadata(0)
