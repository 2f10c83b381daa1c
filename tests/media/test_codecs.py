"""Kinds of files that results can be: what FFmpeg and Pillow say is in them."""

import json
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest

from sama_video.editing import EditSettings, edit_video
from sama_video.media.codecs import CODECS
from sama_video.media.containers import CONTAINER_NAMES, PICTURE_CODECS
from sama_video.system.errors import UserError
from sama_video.video import Frame, PictureCoding, VideoReader, VideoWriter
from tests import tiny
from tests.clips import picture, write_clip

FPS = Fraction(25)
# FFmpeg's names of codec and pixels, and the PSNR in dB of what comes back at the usual quality.
FOUND = {
    "h264": ("h264", "yuv420p", 33),
    "hevc": ("hevc", "yuv420p10le", 33),
    "prores": ("prores", "yuv422p10le", 38),
    "vp9": ("vp9", "yuv420p", 33),
    "gif": ("gif", "bgra", 24),
    "webp": (None, None, 30),
    "apng": ("apng", "rgb24", 99),
}
HELD = [(suffix, codec) for suffix, codecs in PICTURE_CODECS.items() for codec in codecs]


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)


def written(path, codec, *, alpha=False, crf=16, count=5, size=(48, 64)):
    coding = PictureCoding.of(path, codec, crf, has_alpha=alpha)
    frames = []
    with VideoWriter(path, *size, FPS, coding=coding, time_base=1 / FPS) as writer:
        for index in range(count):
            opacity = None
            pixels = picture(index, *size)
            if alpha:
                opacity = np.full(size, 255, np.uint8)
                opacity[:, : size[1] // 2] = 0
                pixels[opacity == 0] = 255  # as they show on white
            frames.append(Frame(pixels, index / FPS, 1 / FPS, opacity))
            writer.write(frames[-1])
    return frames


def psnr(one, other):
    error = np.mean((one.astype(float) - other) ** 2)
    return 99 if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize(("suffix", "codec"), HELD)
def test_what_is_written_is_what_was_asked_for(suffix, codec, tmp_path):
    path = tmp_path / f"a{suffix}"
    frames = written(path, codec)
    name, pixels, quality = FOUND[codec]
    if name is not None:  # FFmpeg does not read animated WebP
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == (name, pixels)
            if suffix in (".mp4", ".mov", ".m4v") and codec == "hevc":
                assert stream.codec_context.codec_tag == "hvc1"
    reader = VideoReader(path)
    back = list(reader.frames())
    assert len(back) == 5
    assert reader.info.fps == FPS
    assert not reader.info.has_alpha
    assert all(abs(frame.time - index / FPS) <= Fraction(1, 1000) for index, frame in enumerate(back))
    assert all(abs(frame.duration - 1 / FPS) <= Fraction(1, 100) for frame in back)
    assert min(psnr(a.pixels, b.pixels) for a, b in zip(frames, back, strict=True)) >= quality
    assert set(FOUND) == set(CODECS)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(s, c) for s, c in HELD if c in ("prores", "vp9", "gif", "webp", "apng")]
)
def test_alpha_stays_where_the_codec_has_it(suffix, codec, tmp_path):
    path = tmp_path / f"a{suffix}"
    frames = written(path, codec, alpha=True)
    reader = VideoReader(path)
    back = list(reader.frames())
    assert reader.info.has_alpha
    for before, after in zip(frames, back, strict=True):
        assert np.abs(before.alpha[:, 4:28].astype(int) - after.alpha[:, 4:28]).max() <= 4
        assert np.abs(before.alpha[:, 36:].astype(int) - after.alpha[:, 36:]).max() <= 4
        assert psnr(before.pixels[:, 36:], after.pixels[:, 36:]) >= FOUND[codec][2] - 3
        assert (after.pixels[:, 4:28] >= 250).all()


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "h264"), (".webm", "vp9"), (".webp", "webp"), (".apng", "apng"), (".mkv", "vp9")]
)
def test_nothing_is_lost_where_nothing_may_be(suffix, codec, tmp_path):
    path = tmp_path / f"a{suffix}"
    frames = written(path, codec, crf=0)
    for before, after in zip(frames, VideoReader(path).frames(), strict=True):
        assert np.array_equal(before.pixels, after.pixels)


@pytest.mark.parametrize(("name", "codec"), [("a.mov", "prores"), ("a.gif", None), ("a.mp4", "hevc")])
def test_codecs_that_lose_something_say_so(name, codec, tmp_path):
    with pytest.raises(
        UserError, match=r"cannot keep every pixel \(`crf` 0\); use `codec` h264 or vp9 or webp or apng"
    ):
        PictureCoding.of(tmp_path / name, codec, 0, has_alpha=False)


def test_a_container_that_does_not_hold_a_codec(tmp_path):
    with pytest.raises(UserError, match=r"MP4 does not hold ProRes.*: it holds h264 or hevc; or write .mov or .mkv"):
        PictureCoding.of(tmp_path / "a.mp4", "prores", 16, has_alpha=False)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animations_are_shown_for_ever_at_the_right_times(suffix, tmp_path):
    path, times = tmp_path / f"a{suffix}", [Fraction(t, 100) for t in (0, 4, 20, 24, 50)]
    with VideoWriter(path, 48, 64, FPS) as writer:
        for index, (time, following) in enumerate(zip(times, [*times[1:], Fraction(3, 5)], strict=True)):
            writer.write(Frame(picture(index, 48, 64), time, following - time))
    with PIL.Image.open(path) as image:
        assert image.info["loop"] == 0
    frames = list(VideoReader(path).frames())
    assert [frame.time for frame in frames] == pytest.approx(times, abs=0.0011)
    if suffix == ".gif":  # FFmpeg's other writers give the last frame a usual duration
        assert frames[-1].duration == pytest.approx(0.1, abs=0.0011)


def probed(path):
    with av.open(str(path)) as container:
        return {kind: [s.codec_context.name for s in getattr(container.streams, kind)] for kind in ("video", "audio")}


def test_sound_goes_into_webm_as_opus_and_is_left_out_of_gif(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 12, sound=True)
    record = edit_video(pipe, source, "make it red", tmp_path / "b.webm")
    assert probed(tmp_path / "b.webm") == {"video": ["libvpx-vp9"], "audio": ["libopus"]} or probed(
        tmp_path / "b.webm"
    ) == {"video": ["vp9"], "audio": ["opus"]}
    assert any("encoded again as Opus: not every player reads aac in WebM" in note for note in record["notes"])
    record = edit_video(pipe, source, "make it red", tmp_path / "b.gif")
    assert probed(tmp_path / "b.gif")["audio"] == []
    assert record["notes"] == ["left out: sound track 1 (aac), GIF holds no sound"]


def test_transparency_goes_through_an_edit(pipe, tmp_path):
    written(tmp_path / "a.webm", "vp9", alpha=True, size=(96, 128), count=9)
    record = edit_video(pipe, tmp_path / "a.webm", "make it red", tmp_path / "b.webm")
    assert record["notes"] == []
    for frame in VideoReader(tmp_path / "b.webm").frames():
        assert frame.alpha[:, 4:56].max() <= 4
        assert frame.alpha[:, 72:].min() >= 251
    record = edit_video(pipe, tmp_path / "a.webm", "make it red", tmp_path / "b.mp4")
    assert record["notes"] == ["transparent parts shown on white"]


def test_a_transparent_picture_stays_so_in_png_and_not_in_jpeg(pipe, tmp_path):
    rgba = np.dstack([picture(0), np.where(np.arange(128) < 64, 0, 255)[None].repeat(96, 0).astype(np.uint8)])
    PIL.Image.fromarray(rgba).save(tmp_path / "a.png")
    edit_video(pipe, tmp_path / "a.png", "make it red", tmp_path / "b.png")
    with PIL.Image.open(tmp_path / "b.png") as result:
        assert result.mode == "RGBA"
        assert np.array_equal(np.array(result)[..., 3], rgba[..., 3])
        assert json.loads(result.text["Comment"])["sama"]["prompt"] == "make it red"
    record = edit_video(pipe, tmp_path / "a.png", "make it red", tmp_path / "b.jpg")
    assert record["notes"] == ["transparent parts shown on white"]


def test_what_made_a_result_is_in_its_file(pipe, tmp_path):
    source = write_clip(tmp_path / "a.mp4", 5)
    settings = EditSettings(seed=3, codec="hevc")
    record = edit_video(pipe, source, 'make it "red"', tmp_path / "b.mp4", settings, command="sama edit")
    assert record["command"] == "sama edit"
    assert record["seconds_taken"] > 0
    assert record["date"].startswith("20")
    with av.open(str(tmp_path / "b.mp4")) as container:
        made = json.loads(container.metadata["comment"])["sama"]
    assert made["prompt"] == 'make it "red"'
    assert made["settings"]["seed"] == 3
    assert made["settings"]["codec"] == "hevc"
    assert made["source_sha256"] == record["source"]["sha256"]


def test_phones_photos_are_read(tmp_path, pipe):
    import pillow_heif

    pillow_heif.register_heif_opener()
    PIL.Image.fromarray(picture(3)).save(tmp_path / "a.heic", quality=90)
    reader = VideoReader(tmp_path / "a.heic")
    assert reader.info.is_image
    assert psnr(next(reader.frames()).pixels, picture(3)) > 30
    edit_video(pipe, tmp_path / "a.heic", "make it red", tmp_path / "b.png")
    assert PIL.Image.open(tmp_path / "b.png").size == (128, 96)


def test_every_suffix_has_a_name_and_codecs():
    assert PICTURE_CODECS.keys() == CONTAINER_NAMES.keys()
