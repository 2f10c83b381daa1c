"""Sound at its exact place: what every moment of the source sounds like is heard at the same moment of the result."""

import numpy as np
import pytest

from sama_video.editing import EditSettings, edit_video
from sama_video.media.containers import VIDEO_SUFFIXES
from tests import tiny
from tests.tones import Sound, heard, heard_by_ffmpeg, noise, shift_and_likeness, write_pictures_and_sounds

MILLISECOND = 1e-3


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)


def edit(pipe, source, output, **settings):
    return edit_video(pipe, source, "make it red", output, EditSettings(num_inference_steps=1, **settings))


def placed(sound: Sound, begin: float = 0.0) -> np.ndarray:
    """What should be heard when the first picture is the one at `begin` seconds."""
    line = np.zeros(44100 * 10)
    at = float(sound.start)
    times = np.arange(round(len(sound.samples) / sound.rate * 44100)) / 44100
    samples = np.interp(times, np.arange(len(sound.samples)) / sound.rate, sound.samples)
    for gap_begin, gap_end in sound.gaps:
        samples[(times + at >= gap_begin) & (times + at < gap_end)] = 0
    line[round(at * 44100) :][: len(samples)] = samples
    return line[round(begin * 44100) :]


def assert_in_place(output, wanted, pieces, track=0, decibel=10.0):
    for reader in (heard, heard_by_ffmpeg):
        found = reader(output, track)
        for begin, end in pieces:
            shift, likeness = shift_and_likeness(found, wanted, begin, end)
            assert abs(shift) <= MILLISECOND, (reader.__name__, begin, shift, likeness)
            assert likeness > decibel, (reader.__name__, begin, shift, likeness)


# What cameras, phones, recorders and players write: container, codec, rate, layout, picture codec.
SOURCES = {
    "canon.avi": ("pcm_u8", 11025, "mono", "mjpeg"),
    "camera.avi": ("pcm_s16le", 44100, "stereo", "mjpeg"),
    "adpcm.avi": ("adpcm_ms", 44100, "stereo", "mjpeg"),
    "mp3.avi": ("libmp3lame", 44100, "stereo", "mjpeg"),
    "recorder.avi": ("pcm_mulaw", 8000, "mono", "mjpeg"),
    "alaw.mov": ("pcm_alaw", 8000, "mono", "libx264"),
    "recorder.mov": ("pcm_s24le", 48000, "stereo", "libx264"),
    "big.mov": ("pcm_s16be", 44100, "mono", "libx264"),
    "float.mkv": ("pcm_f32le", 96000, "stereo", "libx264"),
    "surround.mkv": ("pcm_s16le", 48000, "5.1", "libx264"),
    "seven.mkv": ("pcm_s16le", 48000, "7.1", "libx264"),
    "dvd.mpg": ("mp2", 48000, "stereo", "mpeg2video"),
    "broadcast.ts": ("mp2", 48000, "stereo", "libx264"),
    "phone.mp4": ("aac", 44100, "stereo", "libx264"),
    "phone.ts": ("aac", 48000, "mono", "libx264"),
    "obs.mkv": ("aac", 48000, "stereo", "libx264"),
    "film.mkv": ("ac3", 48000, "5.1", "libx264"),
    "dts.mkv": ("dca", 48000, "5.1(side)", "libx264"),
    "disc.mkv": ("truehd", 48000, "5.1(side)", "libx264"),
    "flac.mkv": ("flac", 44100, "stereo", "libx264"),
    "alac.mov": ("alac", 44100, "stereo", "libx264"),
    "web.mkv": ("libopus", 48000, "stereo", "libx264"),
    "vorbis.mkv": ("vorbis", 44100, "stereo", "libx264"),
    "windows.wmv": ("wmav2", 44100, "stereo", "msmpeg4"),
    "odd.mov": ("pcm_s16le", 37800, "mono", "libx264"),
    "fast.mov": ("pcm_s24le", 192000, "mono", "libx264"),
}


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
@pytest.mark.parametrize("name", SOURCES)
def test_sound_of_every_kind_is_heard_at_its_time_in_every_container(name, suffix, pipe, tmp_path):
    codec, rate, layout, video = SOURCES[name]
    sound = Sound(noise(2.0, rate), rate, codec, layout)
    source = write_pictures_and_sounds(tmp_path / name, [sound], video=video)
    output = tmp_path / f"out{suffix}"
    record = edit(pipe, source, output, start=0.52, num_frames=25)
    # Against what the source's own readers hear: an encoder's lead-in that its container does not tell is no fault here.
    wanted = heard(source)[round(0.52 * 44100) :]
    assert_in_place(output, wanted, [(0.0, 0.1), (0.1, 0.5), (0.6, 0.97)])
    assert not [note for note in record["notes"] if "left out" in note]
