"""Picture files: uint8 `[H, W, 3]` from any that Pillow reads, upright, and back."""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from ..errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def read_picture(path: Path) -> np.ndarray:
    """Upright uint8 `[H, W, 3]`.

    Raises:
        UserError: for a file that is not such a picture.
    """
    try:
        with PIL.Image.open(path) as image:
            return _pixels_of_image(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not an image that can be read ({error}); is it complete?") from error


def _pixels_of_image(image: PIL.Image.Image) -> np.ndarray:
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = PIL.Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def write_image(path: Path, pixels: np.ndarray) -> None:
    """uint8 `[H, W, 3]` to a picture file, in the format of its suffix."""
    PIL.Image.fromarray(pixels).save(path, quality=95)
