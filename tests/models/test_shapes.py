import pytest

from sama_video.models.shapes import LatentShape, VideoShape, fit_size, neighbouring_num_frames


def test_wan_at_480p():
    shape = LatentShape.from_video(VideoShape(num_frames=81, height=480, width=832))
    assert (shape.frames, shape.height, shape.width) == (21, 60, 104)
    assert shape.num_tokens() == 32_760


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 1)), (2, (1, 5)), (48, (45, 49)), (81, (81, 81)), (82, (81, 85))])
def test_neighbouring_num_frames(n, expected):
    assert neighbouring_num_frames(n) == expected


def test_errors_say_what_would_do():
    with pytest.raises(ValueError, match="got 48; use 45 or 49"):
        LatentShape.from_video(VideoShape(num_frames=48, height=480, width=832))
    with pytest.raises(ValueError, match="use 480x832"):
        LatentShape.from_video(VideoShape(num_frames=49, height=479, width=833))


@pytest.mark.parametrize(
    ("height", "width"), [(480, 640), (720, 1280), (1920, 1080), (405, 720), (272, 640), (100, 100)]
)
@pytest.mark.parametrize(("area", "multiple"), [(128 * 128, 16), (480 * 832, 16), (704 * 1280, 32)])
def test_fit_size_keeps_ratio_and_area(height, width, area, multiple):
    h, w = fit_size(height, width, area, multiple)
    assert h % multiple == w % multiple == 0
    assert abs(h / w / (height / width) - 1) < 0.12
    assert abs(h * w / area - 1) < 0.2
