"""What is tagged is undone: matrix, range, HDR, wide primaries, transparency. The right values are computed here."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

from sama_video.media.colour import Coding, compress, to_sdr
from sama_video.system.errors import UserError
from sama_video.video import VideoReader

# Red, green, blue, white, a grey and a skin tone, each a block of 32 x 32.
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (119, 119, 119), (200, 150, 120)])
BT709_TO_BT2020 = np.array(
    [[0.6274039, 0.3292830, 0.0433131], [0.0690973, 0.9195404, 0.0113623], [0.0163914, 0.0880133, 0.8955953]]
)  # BT.2087
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def yuv(rgb: np.ndarray, matrix: int, bits: int, full: bool) -> np.ndarray:
    """Signals 0..1 `[N, 3]` as integers: Y' = kr R' + kg G' + kb B', Cb = (B' - Y') / (2 - 2 kb), Cr alike."""
    kr, kb = WEIGHTS[matrix]
    y = kr * rgb[:, 0] + (1 - kr - kb) * rgb[:, 1] + kb * rgb[:, 2]
    cb, cr = (rgb[:, 2] - y) / (2 - 2 * kb), (rgb[:, 0] - y) / (2 - 2 * kr)
    unit = 2 ** (bits - 8)
    if full:
        top = 2**bits - 1
        return np.round(np.stack([top * y, top * cb + 128 * unit, top * cr + 128 * unit], axis=1)).clip(0, top)
    return np.round(unit * np.stack([219 * y + 16, 224 * cb + 128, 224 * cr + 128], axis=1))


def write(path, signal, *, tagged=0, matrix=1, bits=8, full=False, transfer=2, primaries=2, size=32):
    """A lossless clip of a row of blocks, their signals `[N, 3]` in 0..1, coded by `matrix`, tagged as `tagged`."""
    values = yuv(np.asarray(signal), matrix, bits, full)
    planes = np.repeat(np.repeat(values.T[:, None], size, axis=1), size, axis=2)
    pixel_format = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = planes.shape[1], planes.shape[2], pixel_format
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = tagged, transfer, primaries
        context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        for index in range(3):
            frame = av.VideoFrame(planes.shape[2], planes.shape[1], pixel_format)
            for plane, content in zip(frame.planes, planes.astype(np.uint8 if bits == 8 else np.uint16), strict=True):
                row = plane.line_size // content.itemsize
                plane.update(np.pad(content, ((0, 0), (0, row - content.shape[1]))))
            frame.pts, frame.time_base = index, Fraction(1, 25)
            frame.colorspace, frame.color_trc, frame.color_primaries = tagged, transfer, primaries
            frame.color_range = context.color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def blocks(path, size=32):
    reader = VideoReader(path)
    pixels = next(reader.frames()).pixels
    return pixels[size // 2, size // 2 :: size].astype(int), reader.notes


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_matrix_and_range_as_tagged(matrix, full, bits, tmp_path):
    path = write(tmp_path / "a.mkv", COLOURS / 255, tagged=matrix, matrix=matrix, bits=bits, full=full)
    colours, notes = blocks(path)
    assert np.abs(colours - COLOURS).max() <= 3
    assert notes == []


@pytest.mark.parametrize(("size", "matrix"), [(32, 5), (240, 1), (720, 1)])
def test_untagged_files_go_by_their_size(size, matrix, tmp_path):
    # 192 x 32 is of television's days; 1440 x 240 and 4320 x 720 are not.
    path = write(tmp_path / "a.mkv", COLOURS / 255, tagged=2, matrix=matrix, size=size)
    assert np.abs(blocks(path, size)[0] - COLOURS).max() <= 3


def test_full_range_of_jpeg_formats(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuvj444p"
        planes = np.full((3, 32, 64), 128, np.uint8)
        planes[0, :, :32], planes[0, :, 32:] = 0, 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuvj444p")))
        container.mux(stream.encode())
    pixels = next(VideoReader(tmp_path / "a.avi").frames()).pixels
    assert pixels[16, 8].max() <= 1
    assert pixels[16, 56].min() >= 254


def hlg(light):
    """cd/m2 -> signal: the inverse of F_D = 1000 E^1.2 and of BT.2100's inverse OETF."""
    scene = (light / 1000) ** (1 / 1.2)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene, 1) - 0.28466892) + 0.55991073
    )


def pq(light):
    """SMPTE ST 2084's inverse EOTF."""
    y = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


@pytest.mark.parametrize("white", [100, 203])
@pytest.mark.parametrize("tagged", [9, 2])
@pytest.mark.parametrize(
    ("transfer", "name", "signal_of"), [(ColorTrc.ARIB_STD_B67, "HLG", hlg), (ColorTrc.SMPTE2084, "PQ", pq)]
)
def test_hdr_becomes_the_sdr_that_it_was_made_of(transfer, name, signal_of, tagged, white, tmp_path):
    light = (COLOURS / 255) ** 2.4 @ BT709_TO_BT2020.T * white
    options = {"tagged": tagged, "transfer": transfer, "primaries": 9 if tagged == 9 else 2}
    path = write(tmp_path / "a.mkv", signal_of(light), matrix=9, bits=10, **options)
    colours, notes = blocks(path)
    # Ten bits of HDR are coarse: where a primary has no light, it may come back with a hundredth of white's.
    assert np.abs(colours[3:] - COLOURS[3:]).max() <= 3
    assert np.abs((colours / 255) ** 2.4 - (COLOURS / 255) ** 2.4).max() <= 0.03
    assert len(notes) == 1
    assert notes[0].startswith(f"{name} tone-mapped to SDR (BT.709), ")
    assert abs(int(notes[0].split()[-4]) - white) <= 5


def test_highlights_are_compressed_in_order(tmp_path):
    grey = np.repeat(np.array([[26.0], [100], [203], [250], [400], [1000]]), 3, axis=1)
    colours, _ = blocks(write(tmp_path / "a.mkv", hlg(grey), tagged=9, matrix=9, bits=10, transfer=18, primaries=9))
    levels = colours[:, 0]
    # BT.2408: 26 cd/m2 of a grey card under HLG are 42.5 % of an SDR signal.
    assert abs(levels[0] - 0.425 * 255) <= 3
    assert levels[2] >= 252
    assert (np.diff(levels) >= 0).all()
    light = np.linspace(0, 5, 1000)
    assert (np.diff(compress(light)) >= 0).all()
    assert compress(light).max() <= 1


@pytest.mark.parametrize("primaries", [ColorPrimaries.BT2020, ColorPrimaries.SMPTE432])
def test_wide_primaries_in_sdr(primaries, tmp_path):
    display_p3 = [[0.8224620, 0.1775380, 0], [0.0331942, 0.9668058, 0], [0.0170827, 0.0723974, 0.9105199]]
    matrix = BT709_TO_BT2020 if primaries == ColorPrimaries.BT2020 else np.array(display_p3)
    signal = ((COLOURS / 255) ** 2.4 @ matrix.T) ** (1 / 2.4)
    path = write(tmp_path / "a.mkv", signal, tagged=9, matrix=9, bits=10, transfer=1, primaries=primaries)
    colours, notes = blocks(path)
    assert np.abs((colours / 255) ** 2.4 - (COLOURS / 255) ** 2.4).max() <= 0.01
    assert np.abs(colours[3:] - COLOURS[3:]).max() <= 2
    assert notes == [f"colours converted from {'BT.2020' if primaries == ColorPrimaries.BT2020 else 'P3'} to BT.709"]


def test_tone_mapping_does_not_depend_on_the_size_of_its_blocks():
    signal = np.random.default_rng(0).integers(0, 65536, (300, 500, 3)).astype(np.uint16)
    coding = Coding(ColorTrc.SMPTE2084, ColorPrimaries.BT2020, 203.0)
    whole = to_sdr(signal, coding)
    assert np.array_equal(whole[100:200], to_sdr(signal[100:200], coding))


def test_codings_that_cannot_be_undone_are_refused(tmp_path):
    write(tmp_path / "a.mkv", COLOURS / 255, tagged=8)
    reader = VideoReader(tmp_path / "a.mkv")
    with pytest.raises(UserError, match=r"a\.mkv .*coded as YCgCo; convert it"):
        next(reader.frames())


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.webm", "libvpx", "yuva420p"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "yuva444p"),
        ("a.mov", "png", "rgba"),
    ],
)
@pytest.mark.parametrize("solid", [False, True])
def test_transparency_of_films(name, codec, pix_fmt, solid, tmp_path):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 255, 255
    if not solid:
        rgba[:, :32, 3] = 0
    with av.open(str(tmp_path / name), "w") as container:
        options = {"auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, pix_fmt
        if name.endswith("webm"):
            stream.metadata["alpha_mode"] = "1"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reader = VideoReader(tmp_path / name)
    frames = list(reader.frames())
    assert len(frames) == 3
    for frame in frames:
        assert frame.pixels[32, 8].tolist() == [255, 255, 255] if not solid else frame.pixels[32, 8, 1] < 8
        assert np.abs(frame.pixels[32, 56].astype(int) - (254, 0, 0)).max() <= 5
    assert reader.notes == ([] if solid else ["transparent parts shown on white"])
