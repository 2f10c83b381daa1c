"""What the files that are written can hold, so that players that people have can play it.

More than FFmpeg's writers take: they write 24-bit PCM and Vorbis into MP4, which other players do not read.
"""

from collections import defaultdict
from pathlib import Path

from ..system.data_files import table_beside

_TABLES = table_beside(__file__)
# By suffix.
CONTAINER_NAMES: dict[str, str] = _TABLES["names"]
VIDEO_SUFFIXES = set(CONTAINER_NAMES)
PICTURE_CODECS: dict[str, list[str]] = _TABLES["pictures"]
H264_SUFFIXES = {suffix for suffix, codecs in PICTURE_CODECS.items() if "h264" in codecs}
_ENCODED_SOUND: dict[str, str] = _TABLES["encoded_sound"]
# What a container holds none of is not in these.
_COPIED_SOUND: dict[str, list[str]] = defaultdict(list, _TABLES["copied_sound"])
_PCM_SOUND: dict[str, list[str]] = defaultdict(list, _TABLES["pcm_sound"])
COPIED_SUBTITLES: dict[str, list[str]] = defaultdict(list, _TABLES["copied_subtitles"])
WRITTEN_SUBTITLES: dict[str, str] = _TABLES["written_subtitles"]
QUICKTIME_LANGUAGES: dict[str, str] = _TABLES["quicktime_languages"]
# What `encoded_sound` names, as people know it.
LOSSY_SOUND = {"aac": "AAC", "libopus": "Opus"}
_LOSSLESS_SOUND = {"flac", "alac"}  # that FFmpeg encodes
_TELEPHONE_SOUND = {"pcm_mulaw", "pcm_alaw", "pcm_vidc"}


def container_of(path: Path) -> str:
    """The suffix, in lower case, by which the tables above go."""
    return path.suffix.lower()


def sound_codecs(codec: str, container: str) -> list[str]:
    """How a track of `codec` may be written, the best first: "copy", or the codec that it is encoded by.

    Nothing where a container holds no sound.
    """
    copied = codec in _COPIED_SOUND[container]
    # Lossless sound loses nothing when it is encoded again, and then begins at the very sample.
    ways = [codec] if copied and codec in _LOSSLESS_SOUND else []
    if copied:
        ways.append("copy")
    known = _PCM_SOUND[container]
    if codec in known or (known and codec.startswith("pcm_") and codec not in _TELEPHONE_SOUND):
        ways.append(_pcm(codec, container))
    return [*ways, *([_ENCODED_SOUND[container]] if container in _ENCODED_SOUND else [])]


def _pcm(codec: str, container: str) -> str:
    """The plain samples of a container that keep all of another's."""
    known = _PCM_SOUND[container]
    little = codec.removesuffix("_planar").replace("be", "le")
    eight_bits = {"pcm_s8": "pcm_u8"}.get(codec.removesuffix("_planar"), little)
    return next((name for name in (codec, eight_bits) if name in known), "pcm_s24le")


def holders(codec: str, kind: str) -> list[str]:
    """Suffixes of the containers that hold a codec as it is."""
    tables = {"sound": (_COPIED_SOUND, _PCM_SOUND), "subtitle": (COPIED_SUBTITLES,)}[kind]
    return [suffix for suffix in CONTAINER_NAMES if any(codec in table[suffix] for table in tables)]
