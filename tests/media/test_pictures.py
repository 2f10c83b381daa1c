"""Pictures of every kind give the right values; animated ones are clips; what only looks like a picture is refused."""

import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from sama_video.system.errors import UserError
from sama_video.video import VideoReader, result_suffix
from tests.clips import picture

RAMP = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(32, 0)


def pixels_of(path):
    reader = VideoReader(path)
    assert reader.info.is_image
    return next(reader.frames()).pixels


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_cut_off(suffix, tmp_path):
    PIL.Image.fromarray(RAMP).save(tmp_path / f"grey.{suffix}")
    expected = np.round(RAMP / 65535 * 255)
    for channel in np.moveaxis(pixels_of(tmp_path / f"grey.{suffix}"), -1, 0):
        assert np.array_equal(channel, expected)


def test_one_bit_palette_and_ink(tmp_path):
    halves = np.zeros((32, 64), np.uint8)
    halves[:, 32:] = 255
    PIL.Image.fromarray(halves).convert("1").save(tmp_path / "bits.png")
    assert np.array_equal(pixels_of(tmp_path / "bits.png")[..., 0], halves)
    palette = PIL.Image.fromarray(halves // 255)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=0)
    reader = VideoReader(tmp_path / "palette.png")
    pixels = next(reader.frames()).pixels
    assert pixels[5, 5].tolist() == [255, 255, 255]
    assert pixels[5, 40].tolist() == [200, 100, 50]
    assert reader.notes == ["transparent parts shown on white"]
    PIL.Image.new("CMYK", (64, 32), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=100)
    assert np.abs(pixels_of(tmp_path / "ink.jpg")[5, 5].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_transparency_is_noted_only_where_there_is_some(suffix, tmp_path):
    rgba = np.dstack([picture(0), np.full((96, 128), 255, np.uint8)])
    PIL.Image.fromarray(rgba).save(tmp_path / f"solid.{suffix}")
    rgba[:40, :, 3] = 0
    PIL.Image.fromarray(rgba).save(tmp_path / f"holes.{suffix}")
    solid, holes = (VideoReader(tmp_path / f"{name}.{suffix}") for name in ("solid", "holes"))
    assert solid.notes == []
    assert holes.notes == ["transparent parts shown on white"]
    assert next(holes.frames()).pixels[:38].min() == 255
    assert next(holes.frames(size=(48, 64))).pixels[:18].min() == 255


def test_hidden_colours_do_not_bleed_into_edges(tmp_path):
    rgba = np.zeros((64, 64, 4), np.uint8)  # black where it is transparent
    rgba[:, 33:] = 255
    PIL.Image.fromarray(rgba).save(tmp_path / "a.png")
    assert next(VideoReader(tmp_path / "a.png").frames(size=(32, 32))).pixels.min() == 255


def linear_profile(primaries, gamma) -> bytes:
    """An ICC profile (version 2) of given XYZ columns, adapted to D50, and a pure gamma."""

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"Wide\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78 + 1),
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        b"rXYZ": xyz(primaries[0]),
        b"gXYZ": xyz(primaries[1]),
        b"bXYZ": xyz(primaries[2]),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", start + len(data))
    header[8:12], header[12:24], header[36:40] = b"\x02\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    header[68:80] = b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return bytes(header) + table + data


# Display P3's columns in D50, as its profile has them.
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_wide_colours_come_in_as_srgb(suffix, tmp_path):
    # sRGB's red is (0.9175, 0.2003, 0.1386) in Display P3 with sRGB's curve; with a gamma of 2.2 nearly so.
    wide = np.round(255 * np.array([0.8225, 0.0331, 0.0171]) ** (1 / 2.2)).astype(np.uint8)
    image = PIL.Image.fromarray(np.broadcast_to(wide, (32, 32, 3)).copy())
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    image.save(tmp_path / f"a.{suffix}", icc_profile=linear_profile(P3, 2.2), **options)
    reader = VideoReader(tmp_path / f"a.{suffix}")
    colour = next(reader.frames()).pixels[16, 16].astype(int)
    assert np.abs(colour - (255, 0, 0)).max() <= 16
    assert colour[0] >= 252
    assert reader.notes == ["colours converted from the profile 'Wide' to sRGB"]


def test_srgb_profiles_change_nothing_and_broken_ones_are_noted(tmp_path):
    image = PIL.Image.fromarray(picture(0))
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=profile)
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    for name, notes in (("srgb", []), ("broken", ["its colour profile does not fit it and was not applied"])):
        reader = VideoReader(tmp_path / f"{name}.png")
        assert np.array_equal(next(reader.frames()).pixels, picture(0))
        assert reader.notes == notes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_at_every_size(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(picture(0)).save(tmp_path / "a.png", exif=exif)
    turns = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
    turned, mirrored = turns[orientation]
    upright = np.rot90(picture(0), turned)
    upright = upright[:, ::-1] if mirrored else upright
    reader = VideoReader(tmp_path / "a.png")
    assert np.array_equal(next(reader.frames()).pixels, upright)
    half = next(reader.frames(size=(upright.shape[0] // 2, upright.shape[1] // 2))).pixels
    assert np.abs(half.astype(int) - upright[::2, ::2]).mean() < 6


def moving(path, durations, **options):
    pictures = [PIL.Image.fromarray(picture(index)) for index in range(len(durations))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, **options)
    return path


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_animated_pictures_are_clips(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    durations = [40, 100, 40, 200]
    path = moving(tmp_path / f"a.{suffix}", durations, **options)
    reader = VideoReader(path)
    assert not reader.info.is_image
    assert reader.info.num_frames == 4
    assert reader.info.fps == Fraction(4 * 1000, sum(durations))
    frames = list(reader.frames())
    assert [frame.duration for frame in frames] == [Fraction(one, 1000) for one in durations]
    assert [frame.time for frame in frames] == [0, Fraction(40, 1000), Fraction(140, 1000), Fraction(180, 1000)]
    assert list(reader.times()) == [frame.time for frame in frames]
    for index, frame in enumerate(frames):
        assert np.abs(frame.pixels.astype(int) - picture(index)).mean() < (6 if suffix == "gif" else 0.01)
    later = list(reader.frames(start=0.15, size=(48, 64)))
    assert [frame.time for frame in later] == [Fraction(140, 1000), Fraction(180, 1000)]
    assert later[0].pixels.shape == (48, 64, 3)
    with pytest.raises(UserError, match="shows nothing at 1 s"):
        next(reader.frames(start=1.0))
    assert result_suffix(path) == (".mp4" if suffix in ("png", "avif") else f".{suffix}")


def test_one_frame_of_an_animated_kind_is_a_picture(tmp_path):
    for suffix in ("webp", "png", "gif"):
        path = moving(tmp_path / f"a.{suffix}", [40])
        assert VideoReader(path).info.is_image
        assert result_suffix(path) == {"gif": ".png"}.get(suffix, f".{suffix}")


def test_what_an_animation_leaves_out_and_makes_up_is_told(tmp_path):
    untimed = VideoReader(moving(tmp_path / "a.gif", [0, 0, 0]))
    assert untimed.info.fps == 10
    assert untimed.notes == ["frames without a duration are shown for 0.1 s, as browsers do"]
    content = moving(tmp_path / "b.png", [40] * 4).read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) * 3 // 5])
    cut = VideoReader(tmp_path / "cut.png")
    assert 0 < len(list(cut.frames())) < 4
    assert "does not decode after" in (cut.damaged or "")
    pages = [PIL.Image.fromarray(picture(index)) for index in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    reader = VideoReader(tmp_path / "pages.tif")
    assert reader.info.is_image
    assert reader.notes == ["only the first of 3 pages was read"]


def png_header(width, height) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    begin = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return begin + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (13000, 13000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_huge_pictures_are_refused_by_their_header(width, height, tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(width, height) + bytes(100))
    with pytest.raises(UserError, match=r"a\.png .*pixels.* the limit of 67108864"):
        VideoReader(tmp_path / "a.png")


def test_the_limit_can_be_moved(tmp_path):
    PIL.Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"128x96 pixels, .*`max_source_pixels` 12288"):
        VideoReader(tmp_path / "a.png", max_pixels=12287)
    assert VideoReader(tmp_path / "a.png", max_pixels=12288).info.width == 128


@pytest.mark.parametrize("size", [(2263, 1), (1, 2263), (5000, 2)])
def test_thin_pictures(size, tmp_path):
    PIL.Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    reader = VideoReader(tmp_path / "a.png")
    assert (reader.info.width, reader.info.height) == size
    assert next(reader.frames(size=(16, 16))).pixels[3, 3].tolist() == [10, 20, 30]


def test_content_counts_not_the_name(tmp_path):
    # EPS is a program, which Pillow would hand to Ghostscript.
    (tmp_path / "eps.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(UserError, match="is not an image that can be read"):
        VideoReader(tmp_path / "eps.png")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(20))
    with pytest.raises(UserError, match="is not an image that can be read"):
        VideoReader(tmp_path / "photo.heic")
    PIL.Image.fromarray(picture(3)).save(tmp_path / "a.png")
    (tmp_path / "named.mp4").write_bytes((tmp_path / "a.png").read_bytes())
    assert np.array_equal(pixels_of(tmp_path / "named.mp4"), picture(3))


def test_library_warnings_stay_off_the_terminal(tmp_path):
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x010E] = "x" * 40
    PIL.Image.fromarray(picture(0)).save(stream, "JPEG", exif=exif)
    content = stream.getvalue()
    at = content.index(b"Exif\0\0") + 6 + 8
    broken = content[:at] + b"\xff\xff" + content[at + 2 :]  # 65,535 entries, of which there is one
    (tmp_path / "b.jpg").write_bytes(broken)
    read = "import sys; from sama_video.video import VideoReader; print(VideoReader(sys.argv[1]).info.width)"
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", read, str(tmp_path / "b.jpg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("128\n", "")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), PIL.Image.open(tmp_path / "b.jpg") as image:
        image.getexif()
