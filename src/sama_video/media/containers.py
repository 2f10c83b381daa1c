"""What the files that are written can hold, so that players that people have can play it.

More than FFmpeg's writers take: they write 24-bit PCM and Vorbis into MP4, which other players do not read.
"""

from pathlib import Path

CONTAINER_NAMES = {".mp4": "MP4", ".m4v": "M4V", ".mov": "QuickTime", ".mkv": "Matroska"}
VIDEO_SUFFIXES = set(CONTAINER_NAMES)
# Sound that is copied as it is. All other sound is encoded again.
_COPIED_SOUND = {
    ".mp4": {"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"},
    ".m4v": {"aac", "ac3", "alac"},
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac"},
    ".mkv": {
        *("aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "vorbis"),
        *("flac", "alac", "truehd", "mlp", "tta", "wavpack"),
    },
}
# Plain samples lose nothing when they are written again, cut to the sample.
_PCM_SOUND = {
    ".mp4": set(),
    ".m4v": set(),
    ".mov": {
        *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be"),
        *("pcm_u8", "pcm_mulaw", "pcm_alaw"),
    },
    ".mkv": {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"},
}
_LOSSLESS_SOUND = {"flac", "alac"}  # that FFmpeg encodes
_TELEPHONE_SOUND = {"pcm_mulaw", "pcm_alaw", "pcm_vidc"}
COPIED_SUBTITLES = {
    ".mp4": {"mov_text"},
    ".m4v": {"mov_text"},
    ".mov": {"mov_text"},
    ".mkv": {"subrip", "ass", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"},
}
# QuickTime's own names for languages, where they are not ISO 639-2's; it has no others.
QUICKTIME_LANGUAGES = {
    **{"deu": "ger", "nld": "dut", "swe": "sve", "ell": "gre", "isl": "ice", "zho": "chi", "sqi": "alb", "fre": "fra"},
    **{"cze": "ces", "slo": "slk", "rum": "ron", "hrv": "hr ", "srp": "sr ", "mkd": "mac", "hye": "arm", "kat": "geo"},
    **{"mya": "bur", "msa": "may", "bod": "tib", "cym": "wel", "eus": "baq"},
}
WRITTEN_SUBTITLES = {".mp4": "mov_text", ".m4v": "mov_text", ".mov": "mov_text", ".mkv": "subrip"}


def container_of(path: Path) -> str:
    """The suffix, in lower case, by which the tables above go."""
    return path.suffix.lower()


def sound_codecs(codec: str, container: str) -> list[str]:
    """How a track of `codec` may be written, the best first: "copy", or the codec that it is encoded by."""
    copied = codec in _COPIED_SOUND[container]
    # Lossless sound loses nothing when it is encoded again, and then begins at the very sample.
    ways = [codec] if copied and codec in _LOSSLESS_SOUND else []
    if copied:
        ways.append("copy")
    known = _PCM_SOUND[container]
    if codec in known or (known and codec.startswith("pcm_") and codec not in _TELEPHONE_SOUND):
        ways.append(_pcm(codec, container))
    return [*ways, "aac"]


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
