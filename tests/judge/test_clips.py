"""What the judge sees: the frames shown at the same times in both clips, labelled, no larger than asked."""

import base64
import io
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest

from sama_video.judge.clips import MediaConfig, estimated_tokens, shown_parts, views_of
from sama_video.system.errors import UserError
from tests.clips import index_of, picture, write_clip


def shown(parts):
    """The labels and pictures of message parts."""
    labels = [part["text"] for part in parts if part["type"] == "text"]
    pictures = []
    for part in parts:
        if part["type"] == "image_url":
            head, content = part["image_url"]["url"].split(",")
            assert head == "data:image/jpeg;base64"
            pictures.append(np.array(PIL.Image.open(io.BytesIO(base64.b64decode(content)))))
    return labels, pictures


def parts_of(paths, config):
    return shown_parts(views_of(paths, config), config)


def test_frames_are_labelled_and_spread_over_the_clip(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 25)
    labels, pictures = shown(parts_of([clip, clip], MediaConfig(num_frames=4)))
    assert labels[:4] == ["Video 1, t=0.00 s:", "Video 1, t=0.33 s:", "Video 1, t=0.67 s:", "Video 1, t=1.00 s:"]
    assert labels[4] == "Video 2, t=0.00 s:"
    assert [index_of(pixels) for pixels in pictures] == [0, 8, 16, 24] * 2


def test_clips_of_other_rate_and_length_are_shown_at_the_same_times(tmp_path):
    slow = write_clip(tmp_path / "slow.mp4", 13, fps=Fraction(12))
    longer = write_clip(tmp_path / "longer.mp4", 40, fps=Fraction(24))
    first, second = views_of([slow, longer], MediaConfig(num_frames=3))
    assert first.times == second.times == (0, Fraction(1, 2), 1)
    _, pictures = shown(parts_of([slow, longer], MediaConfig(num_frames=3)))
    assert [index_of(pixels) for pixels in pictures] == [0, 6, 12, 0, 12, 24]


def test_a_short_clip_shows_each_frame_once(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    _, pictures = shown(parts_of([clip], MediaConfig(num_frames=8)))
    assert [index_of(pixels) for pixels in pictures] == [0, 1, 2]


@pytest.mark.parametrize(("long_side", "size"), [(64, (48, 64)), (512, (96, 128))])
def test_frames_shrink_and_never_grow(tmp_path, long_side, size):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    _, pictures = shown(parts_of([clip], MediaConfig(long_side=long_side)))
    assert {pixels.shape[:2] for pixels in pictures} == {size}


def test_a_picture_is_one_frame_without_a_time(tmp_path):
    PIL.Image.fromarray(picture(7)).save(tmp_path / "a.png")
    for kind in ("frames", "video_url"):
        labels, pictures = shown(parts_of([tmp_path / "a.png"] * 2, MediaConfig(kind=kind)))
        assert labels == ["Video 1:", "Video 2:"]
        assert [index_of(pixels) for pixels in pictures] == [7, 7]


def test_whole_files_are_sent_as_they_are(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    label, part = parts_of([clip], MediaConfig(kind="video_url"))
    assert label["text"] == "Video 1:"
    head, content = part["video_url"]["url"].split(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == clip.read_bytes()


def test_looking_knows_content_and_not_place(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    other = write_clip(tmp_path / "other.mp4", 4)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    identities = [views_of([path], MediaConfig(num_frames=2))[0].identity for path in (clip, copy, other)]
    assert identities[0] == identities[1] != identities[2]


def test_what_cannot_be_shown_is_refused(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 30, gop=30)
    PIL.Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="compares two of a kind"):
        views_of([clip, tmp_path / "a.png"], MediaConfig())
    with pytest.raises(UserError, match="no such video"):
        views_of([clip, tmp_path / "none.mp4"], MediaConfig())
    with pytest.raises(UserError, match="media must be one of"):
        MediaConfig(kind="gif")


def test_tokens_grow_with_frames_and_pixels_and_are_unknown_for_whole_files(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 9)
    few, many = (views_of([clip] * 2, MediaConfig(num_frames=n)) for n in (2, 4))
    # 96 x 128 pixels are 4 x 5 tokens of 28 x 28, and a label is 12.
    assert estimated_tokens(few, "x" * 40, MediaConfig()) == 2 * 2 * (20 + 12) + 10
    assert estimated_tokens(many, "", MediaConfig()) == 2 * estimated_tokens(few, "", MediaConfig())
    whole = MediaConfig(kind="video_url")
    assert estimated_tokens(views_of([clip], whole), "", whole) is None
    joined = MediaConfig(kind="side_by_side", stride=4, height=48, short_side=96)
    # Frames 0, 4 and 8, each 96 x 256 pixels once joined.
    assert estimated_tokens(views_of([clip] * 2, joined), "", joined) == 3 * 4 * 10


RECO = MediaConfig(kind="side_by_side", stride=8, height=224, short_side=512, jpeg_quality=85)


def test_side_by_side_shows_equal_frame_numbers_left_and_right(tmp_path):
    source = write_clip(tmp_path / "source.mp4", 81)
    edited = write_clip(tmp_path / "edited.mp4", 81, fps=Fraction(12))
    labels, pictures = shown(shown_parts(views_of([source, edited], RECO), RECO))
    assert labels == []
    assert len(pictures) == 11
    for number, pixels in enumerate(pictures):
        height, width = pixels.shape[:2]
        assert height == 512
        for half in (pixels[:, : width // 2], pixels[:, width // 2 :]):
            assert index_of(np.array(PIL.Image.fromarray(half).resize((128, 96)))) == 8 * number % 30


def test_side_by_side_ends_with_the_shorter_clip(tmp_path):
    source, edited = write_clip(tmp_path / "a.mp4", 20), write_clip(tmp_path / "b.mp4", 17)
    first, second = views_of([source, edited], RECO)
    assert len(first.times) == len(second.times) == 3
    assert (first.num_frames, second.num_frames) == (20, 17)


def test_a_whole_file_may_travel_as_an_image(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    config = MediaConfig(kind="video_in_image_url")
    _, part = shown_parts(views_of([clip], config), config)
    head, content = part["image_url"]["url"].split(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == clip.read_bytes()
