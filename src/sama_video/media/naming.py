"""What a result is called when nobody says."""

from pathlib import Path

from ..system.errors import UserError
from .animation import is_animated
from .opening import check_file
from .pictures import IMAGE_SUFFIXES, picture_kind
from .writer import VIDEO_SUFFIXES


def result_suffix(path: Path) -> str:
    """The suffix of a result: the source's own where such a file is written, else `.png` or `.mp4`.

    Pictures that move give films. A file that cannot be read goes by its name.
    """
    try:
        check_file(path)
        kind = picture_kind(path)
        is_image = kind is not None and not is_animated(path, kind, None)
    except UserError:
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
    allowed, usual = (IMAGE_SUFFIXES, ".png") if is_image else (VIDEO_SUFFIXES, ".mp4")
    return path.suffix if path.suffix.lower() in allowed else usual
