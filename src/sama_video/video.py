"""Reading and writing video and picture files, as a user imports it; the work is done in `media/`."""

from .media.carry import Picture, carry_tracks
from .media.codecs import CODECS, PictureCoding
from .media.colour import resized
from .media.containers import H264_SUFFIXES
from .media.frames import ON_WHITE
from .media.naming import result_suffix
from .media.opening import MAX_SOURCE_PIXELS
from .media.packets import Piece
from .media.pictures import IMAGE_SUFFIXES, holds_alpha, write_image
from .media.playable import write_playable
from .media.reader import TIME_TOLERANCE, Frame, VideoInfo, VideoReader
from .media.writer import (
    VIDEO_SUFFIXES,
    VideoWriter,
    check_output_suffix,
    check_times,
    regular_time_base,
    write_lossless,
)

__all__ = [
    "CODECS",
    "H264_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MAX_SOURCE_PIXELS",
    "ON_WHITE",
    "TIME_TOLERANCE",
    "VIDEO_SUFFIXES",
    "Frame",
    "Picture",
    "PictureCoding",
    "Piece",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "carry_tracks",
    "check_output_suffix",
    "check_times",
    "holds_alpha",
    "regular_time_base",
    "resized",
    "result_suffix",
    "write_image",
    "write_lossless",
    "write_playable",
]
