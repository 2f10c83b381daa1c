"""What `sama data preview` shows is what training gets."""

import base64
import html
import re

import numpy as np
import PIL.Image
import pytest
import torch

from sama_video.data.pretext import PROMPTS
from sama_video.system.errors import UserError
from sama_video.training.batch_preview import first_samples, preview_batches
from sama_video.training.config import ParallelConfig
from sama_video.training.logs.sheet import draw_sheet
from sama_video.training.overrides import find_stages
from sama_video.training.parallel import Parallel
from sama_video.training.setup import build_loader, load_models
from sama_video.video import VideoReader
from tests.clips import write_clip
from tests.training import processes
from tests.training.test_command import sama


@pytest.fixture(scope="module")
def run(tiny_init):
    """Pictures, and captioned clips of two lengths that get every pretext task."""
    clips = processes.CLIPS.engine.__class__(num_samples=40, shapes=((5, 64, 64), (9, 64, 64)), text_to_video=True)
    datasets = (processes.IMAGES, processes.DatasetConfig(name="clips", engine=clips))
    return processes.config(tiny_init, data={"datasets": datasets, "frame_counts": (1, 5, 9)})


def test_its_samples_are_those_that_training_gets(run, tmp_path):
    parallel = Parallel.start(ParallelConfig())
    loader = build_loader(run, parallel, load_models(run, parallel).encoder, tmp_path / "run")
    trained = [(batch, sample) for batch in loader for sample in batch.select(range(len(batch.prompts)))]
    shown = list(first_samples(run, 10**6, 10**6))
    assert len(shown) == len(trained) == 64
    for one, (batch, sample) in zip(shown, trained, strict=True):
        assert one.sample.name == sample.name
        assert one.sample.task == sample.task
        assert one.sample.prompt.endswith(sample.prompt)
        assert torch.equal(one.sample.target, sample.target)
        assert (one.sample.source is None) == (sample.source is None)
        assert sample.source is None or torch.equal(one.sample.source, sample.source)
        bucket = batch.bucket
        assert f"samples of {bucket.width}x{bucket.height}, target of {bucket.num_frames} frame" in one.batch
    assert {one.sample.task for one in shown} == {"edit", "text_to_video", *PROMPTS}
    assert {one.batch.rpartition("source")[2] for one in shown} == {"", " of 1 frame", " of 5 frames", " of 9 frames"}


def test_a_page_holds_clips_that_play_beside_their_instructions(run, tmp_path):
    shown = list(first_samples(run, 30, 2))
    assert preview_batches([run], tmp_path / "page.html", num_batches=30, num_samples=2) == len(shown)
    page = (tmp_path / "page.html").read_text()
    assert all(html.escape(one.sample.prompt) in page for one in shown)
    assert all(html.escape(one.batch) in page for one in shown)
    assert not re.search(r"(src|href)=.(?!data:)", page)
    encoded = re.findall(r"data:video/mp4;base64,([^\"]+)", page)
    clips = [one for one in shown if len(one.sample.target) > 1]
    assert len(encoded) == len(clips)
    for content, one in zip(encoded, clips, strict=True):
        (tmp_path / "clip.mp4").write_bytes(base64.b64decode(content))
        info = VideoReader(tmp_path / "clip.mp4").info
        assert (info.num_frames, info.width) == (
            len(one.sample.target),
            64 * (1 if one.sample.source is None else 2),
        )


def test_a_sheet_shows_source_and_target_in_their_columns():
    def clip(colour, num_frames=5):
        return np.broadcast_to(np.uint8(colour), (num_frames, 64, 64, 3))

    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    rows = [("an edit", [clip(red), clip(green)]), ("words " * 99, [clip(blue)])]
    sheet = np.asarray(draw_sheet(rows, ("source", "target"), times=5, from_right=True))
    middle = sheet.shape[1] // 2

    def area(side, colour):
        return int((side == np.uint8(colour)).all(axis=-1).sum())

    drawn = 5 * 96 * 96
    assert [area(sheet[:, :middle], colour) for colour in (red, green, blue)] == [drawn, 0, 0]
    assert [area(sheet[:, middle:], colour) for colour in (red, green, blue)] == [0, drawn, drawn]
    short = draw_sheet([rows[0], ("words", [clip(blue)])], ("source", "target"), times=5)
    assert short.height < len(sheet)  # a label that is too wide for one line takes several


def test_a_sheet_of_all_stages(run, tmp_path):
    shown = preview_batches([run, run], tmp_path / "sheet.png", num_batches=3, num_samples=1)
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert shown == 6
        assert sheet.format == "PNG"
        assert sheet.height > 6 * 96


def test_the_users_pairs_are_shown_before_there_is_a_model(tmp_path):
    """Its preset says sizes and what comes before prompts."""
    write_clip(tmp_path / "clip.mp4", 17)
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("before,after,words\nclip.mp4,clip.mp4,make it green\n")
    values = [f"data.datasets={manifest}", "data.columns=source=before,target=after,prompt=words", "data.area=4096"]
    output = sama("data", "preview", "lora-finetuning", "--out", tmp_path / "a.html", *_settings(values))
    assert "1 samples" in output
    assert "[Video edit] make it green" in (tmp_path / "a.html").read_text()
    (stage,) = find_stages("lora-finetuning", values)
    (one,) = first_samples(stage, 1, 1)
    assert one.batch.endswith("target of 17 frames, source of 17 frames")


def test_what_cannot_be_shown_is_told(run, tmp_path):
    with pytest.raises(UserError, match=r"cannot draw a.gif; use one of .png, .html"):
        preview_batches([run], tmp_path / "a.gif")
    with pytest.raises(UserError, match="one batch"):
        preview_batches([run], tmp_path / "a.png", num_batches=0)
    with pytest.raises(UserError, match=r"gone\.csv"):
        sama("data", "preview", "lora-finetuning", "--out", tmp_path / "a.png", *_settings(["data.datasets=gone.csv"]))
    assert not list(tmp_path.iterdir())


def _settings(values):
    return [part for value in values for part in ("--set", value)]
