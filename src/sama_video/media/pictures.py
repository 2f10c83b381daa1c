"""Picture files: uint8 `[H, W, 3]`, upright, in sRGB, transparent parts on white; from any kind listed, and back.

A file's kind is known by its first bytes, not by its name, and only that kind's reader is tried: what merely calls
itself `.png` never reaches another program (as EPS would reach Ghostscript).
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import PIL.PngImagePlugin

from ..system.errors import UserError
from .colour import composite_on_white, off_white
from .frames import ON_WHITE, Frame, VideoInfo
from .opening import MAX_SOURCE_PIXELS, check_pixels, reading

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_ALPHA_SUFFIXES = {".png", ".webp", ".tif", ".tiff"}

# Kind, offset, first bytes.
SIGNATURES = (
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("WEBP", 8, b"WEBP"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("BMP", 0, b"BM"),
    ("JPEG2000", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG2000", 0, b"\xff\x4f\xff\x51"),
    ("AVIF", 4, b"ftypavif"),
    ("AVIF", 4, b"ftypavis"),
    ("ICO", 0, b"\0\0\1\0"),
    *(("PPM", 0, b"P%d%c" % (number, space)) for number in range(1, 7) for space in b"\n \t\r"),
)
_HEIC = "HEIF"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
_MOTION_JPEG_SUFFIXES = {".mjpg", ".mjpeg"}
# How much finer than asked for a JPEG is decoded where it is made smaller while it is decoded.
_DRAFT_MARGIN = 4
BROKEN = "is not an image that can be read ({}); is it complete?"


def picture_kind(path: Path) -> str | None:
    """Pillow's name of a picture file's format; None for a file that is no picture by its content.

    Raises:
        UserError: for one that is named like a picture and is none.
    """
    with open(path, "rb") as stream:
        head = stream.read(32)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and b"avif" not in head:
        return _HEIC
    found = next((kind for kind, offset, magic in SIGNATURES if head[offset:].startswith(magic)), None)
    if (found == "WEBP" and head[:4] != b"RIFF") or (found == "JPEG" and path.suffix.lower() in _MOTION_JPEG_SUFFIXES):
        found = None
    if found is None and "avif" in str(head[8:32]):
        found = "AVIF"
    if found is None and path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{path} {BROKEN.format('its content is none of the known kinds')}")
    return found


def open_picture(path: Path, kind: str, max_pixels: int | None) -> PIL.Image.Image:
    """A picture with its header read and its size checked; call inside `reading`."""
    if kind == _HEIC:
        import pillow_heif  # a library for phones' photos alone

        pillow_heif.register_heif_opener()
    try:
        image = PIL.Image.open(path, formats=[kind])
    except PIL.Image.DecompressionBombError as error:
        raise UserError(
            f"{path} has far more pixels than the limit of {max_pixels or MAX_SOURCE_PIXELS}; make it smaller"
        ) from error
    check_pixels(path, image.height, image.width, max_pixels)
    return image


class Still:
    """A file of one picture, in the form of a `Film`.

    Raises:
        UserError: for a file that is not such a picture.
    """

    def __init__(self, path: Path, kind: str, max_pixels: int | None):
        self.path, self.kind, self.max_pixels = path, kind, max_pixels
        self.damaged: str | None = None
        self.notes: list[str] = []
        pixels, alpha = self._read(None)
        height, width = pixels.shape[:2]
        has_alpha = alpha is not None
        self.info = VideoInfo(height, width, Fraction(0), 1, has_audio=False, is_image=True, has_alpha=has_alpha)

    def _read(self, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray | None]:
        with reading(self.path, BROKEN), open_picture(self.path, self.kind, self.max_pixels) as image:
            pages = getattr(image, "n_frames", 1)
            pixels, alpha, notes = pixels_of(image, size)
        if self.kind == "TIFF" and pages > 1:
            notes.append(f"only the first of {pages} pages was read")
        self.notes.extend(note for note in notes if note not in self.notes)
        return pixels, alpha

    def frames(self, start: Fraction, size: tuple[int, int] | None) -> Iterator[Frame]:
        """The picture, as if it were shown at all times; resized to `size` (height, width)."""
        del start
        pixels, alpha = self._read(size)
        yield Frame(pixels, Fraction(0), Fraction(0), alpha)

    def times(self) -> Iterator[Fraction]:
        yield Fraction(0)


def pixels_of(image: PIL.Image.Image, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Pixels of an opened picture, at `size` (height, width) or its own; their opacity `[H, W]`, None where all are
    opaque; and what was done to them."""
    notes: list[str] = []
    if size is not None:
        longest = _DRAFT_MARGIN * max(size)
        image.draft(None, (longest, longest))  # JPEG alone: decodes at 1/2, 1/4 or 1/8
    image = _eight_bits(image)
    try:
        image = PIL.ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data says nothing of the picture, and fails in as many ways as it is damaged
        notes.append("its EXIF data is damaged, so it was read as it is stored, turned or not")
    profile = image.info.get("icc_profile")
    has_alpha = image.has_transparency_data
    if image.mode in ("1", "P", "PA", "La", "RGBa") or has_alpha:
        image = image.convert("RGBA" if has_alpha else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)
    alpha = image.getchannel("A") if has_alpha else None
    if alpha is not None:
        image = image.convert("RGB")
    image = _to_srgb(image, profile, notes)
    pixels = np.array(image.convert("RGB"))
    opacity = None if alpha is None else np.array(alpha)
    if opacity is None or opacity.min() == 255:
        return pixels, None, notes
    notes.append(ON_WHITE)
    return composite_on_white(pixels, opacity[..., None]), opacity, notes


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey values of 16 or 32 bits or real numbers as 8 bits, which Pillow would cut off instead."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    highest = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= highest):
        raise ValueError(f"its values go beyond 0..{highest:g}")
    grey = PIL.Image.fromarray(np.round(values * (255 / highest)).astype(np.uint8))
    transparent = image.info.get("transparency")
    kept = {key: value for key, value in image.info.items() if key != "transparency"}
    if isinstance(transparent, int):
        grey = PIL.Image.merge("LA", (grey, PIL.Image.fromarray(np.uint8(255) * (values != transparent))))
    grey.info, grey._exif = kept, image.getexif()  # orientation and profile are still needed
    return grey


def _to_srgb(image: PIL.Image.Image, profile: bytes | None, notes: list[str]) -> PIL.Image.Image:
    """Colours of another profile (Display P3, Adobe RGB, CMYK inks) as sRGB's; without profile as they are."""
    if not profile:
        return image
    try:
        source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = PIL.ImageCms.getProfileDescription(source).strip()
        if "srgb" in name.lower():
            return image
        converted = PIL.ImageCms.profileToProfile(
            image,
            source,
            PIL.ImageCms.createProfile("sRGB"),
            renderingIntent=PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=PIL.ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (PIL.ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):
        notes.append("its colour profile does not fit it and was not applied")
        return image
    notes.append(f"colours converted from the profile {name!r} to sRGB")
    return converted or image


def holds_alpha(path: Path) -> bool:
    """Whether a picture file of this name can say how opaque its pixels are."""
    return path.suffix.lower() in _ALPHA_SUFFIXES


def write_image(path: Path, pixels: np.ndarray, alpha: np.ndarray | None = None, comment: str = "") -> None:
    """A frame's uint8 `[H, W, 3]` and opacity `[H, W]` to a picture file, in the format of its suffix.

    Args:
        comment: kept in PNG and JPEG files.
    """
    if alpha is not None and holds_alpha(path):
        pixels = np.dstack([off_white(pixels, alpha[..., None]), alpha])
    options: dict[str, Any] = {"quality": 95}
    if comment and path.suffix.lower() == ".png":
        options["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("Comment", comment)
    elif comment and path.suffix.lower() in (".jpg", ".jpeg"):
        options["comment"] = comment.encode()
    PIL.Image.fromarray(pixels).save(path, **options)
