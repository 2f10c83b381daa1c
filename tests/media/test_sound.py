"""Sound at its exact place: what every moment of the source sounds like is heard at the same moment of the result."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from sama_video.media.containers import sound_codecs
from sama_video.media.sound import DRIFT, aac_layout, with_named_speakers
from sama_video.video import VideoReader
from tests.tones import (
    Sound,
    carry,
    carry_beside,
    heard,
    heard_by_ffmpeg,
    noise,
    shift_and_likeness,
    write_pictures_and_sounds,
    write_with_ffmpeg,
)

MILLISECOND = 1e-3
SECONDS = 2.0


def placed(sound: Sound, begin: float = 0.0) -> np.ndarray:
    """What is heard from the picture at `begin` seconds on, if nothing is lost."""
    line = np.zeros(44100 * 10)
    times = np.arange(round(len(sound.samples) / sound.rate * 44100)) / 44100
    samples = np.interp(times, np.arange(len(sound.samples)) / sound.rate, sound.samples)
    for first, last in sound.gaps:
        samples[(times + float(sound.start) >= first) & (times + float(sound.start) < last)] = 0
    at = round(float(sound.start) * 44100)
    samples, at = samples[max(0, -at) :], max(0, at)
    line[at : at + len(samples)] = samples
    return line[round(begin * 44100) :]


def assert_in_place(output, wanted, pieces, track=0, decibel=10.0):
    for reader in (heard, heard_by_ffmpeg):
        found = reader(output, track)
        for begin, end in pieces:
            shift, likeness = shift_and_likeness(found, wanted, begin, end)
            assert abs(shift) <= MILLISECOND, (reader.__name__, begin, shift, likeness)
            assert likeness > decibel, (reader.__name__, begin, shift, likeness)


def level(samples, begin, end, rate=44100):
    return float(np.abs(samples[round(begin * rate) : round(end * rate)]).mean())


# What cameras, phones, recorders, discs and broadcasts hold: codec, rate, layout, the pictures' codec.
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
    "flac.mkv": ("flac", 44100, "stereo", "libx264"),
    "alac.mov": ("alac", 44100, "stereo", "libx264"),
    "web.mkv": ("libopus", 48000, "stereo", "libx264"),
    "vorbis.mkv": ("vorbis", 44100, "stereo", "libx264"),
    "odd.mov": ("pcm_s16le", 37800, "mono", "libx264"),
    "fast.mov": ("pcm_s24le", 192000, "mono", "libx264"),
}
BY_FFMPEG = {
    "ipcam.mkv": ("-c:v copy -c:a pcm_mulaw", 8000, "mono"),
    "dts.mkv": ("-c:v copy -c:a dca", 48000, "5.1"),
    "disc.mkv": ("-c:v copy -c:a truehd", 48000, "stereo"),
    "windows.wmv": ("-c:v wmv2 -c:a wmav2", 44100, "stereo"),
    "old.avi": ("-c:v mjpeg -c:a adpcm_ima_wav", 22050, "stereo"),
    "blu.m2ts": ("-c:v copy -c:a pcm_bluray", 48000, "stereo"),
    "mxf.mkv": ("-c:v copy -c:a wavpack", 44100, "stereo"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Every source, written when it is first wanted, with what its own reader hears."""
    folder, made = tmp_path_factory.mktemp("sources"), {}

    def source(name):
        if name not in made:
            if name in SOURCES:
                codec, rate, layout, video = SOURCES[name]
                sound = Sound(noise(SECONDS, rate), rate, codec, layout)
                path = write_pictures_and_sounds(folder / name, [sound], video=video)
            else:
                options, rate, layout = BY_FFMPEG[name]
                path = write_with_ffmpeg(
                    folder / name, Sound(noise(SECONDS, rate), rate, layout=layout), *options.split()
                )
            made[name] = path, heard(path)
        return made[name]

    return source


PLACES = [(name, ".mp4") for name in (*SOURCES, *BY_FFMPEG)]
PLACES += [
    pytest.param(name, suffix, marks=pytest.mark.slow) for name in (*SOURCES, *BY_FFMPEG) for suffix in (".mov", ".mkv")
]
PLACES += [(name, ".m4v") for name in ("camera.avi", "mp3.avi", "phone.mp4", "film.mkv", "flac.mkv", "web.mkv")]


@pytest.mark.parametrize(("name", "suffix"), PLACES)
def test_sound_of_every_kind_is_heard_at_its_time_in_every_container(name, suffix, sources, tmp_path):
    source, whole = sources(name)
    notes = carry(source, tmp_path / f"out{suffix}", start=0.52, num_frames=25)
    assert_in_place(tmp_path / f"out{suffix}", whole[round(0.52 * 44100) :], [(0.005, 0.1), (0.1, 0.5), (0.6, 0.97)])
    assert not [note for note in notes if "left out" in note]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("name", ["canon.avi", "camera.avi", "ipcam.mkv", "recorder.mov", "phone.mp4", "obs.mkv"])
def test_a_whole_clip_keeps_the_first_and_the_last_of_its_sound(name, suffix, sources, tmp_path):
    source, whole = sources(name)
    carry(source, tmp_path / f"out{suffix}")
    assert_in_place(tmp_path / f"out{suffix}", whole, [(0.005, 0.1), (0.5, 1.0), (1.9, 1.985)])


def test_sound_encoded_again_lasts_as_long_as_it_did(tmp_path):
    sound = Sound(noise(SECONDS, 8000), 8000, "pcm_mulaw")
    source = write_pictures_and_sounds(tmp_path / "a.avi", [sound], video="mjpeg")
    carry(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        assert frames[0].pts == 0
        assert abs(float(stream.duration * stream.time_base) - SECONDS) < MILLISECOND
        assert abs(sum(frame.samples for frame in frames) / 8000 - SECONDS) < 1024 / 8000


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "aac", "flac"])
@pytest.mark.parametrize("start", [Fraction(1, 2), Fraction(-3, 10), Fraction(-1, 20)])
def test_sound_that_begins_later_or_earlier_than_the_picture_stays_beside_it(start, codec, suffix, tmp_path):
    sound = Sound(noise(SECONDS, 48000), 48000, codec, start=start + 1)
    source = write_pictures_and_sounds(tmp_path / "a.mkv", [sound], first=Fraction(1))
    carry(source, tmp_path / f"out{suffix}")
    sound.start = start
    late = max(0.0, float(start))
    assert_in_place(tmp_path / f"out{suffix}", placed(sound), [(late + 0.01, late + 0.1), (1.0, 1.5)])
    silent = heard(tmp_path / f"out{suffix}")
    assert level(silent, 0, late - 0.03) < 1e-3 if late else True


def test_sound_before_the_picture_is_not_lost(tmp_path):
    sound = Sound(noise(SECONDS, 48000), 48000, "pcm_s16le", start=Fraction(7, 10))
    source = write_pictures_and_sounds(tmp_path / "a.mkv", [sound], first=Fraction(1))
    carry(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        seconds = sum(Fraction(frame.samples, frame.rate) for frame in container.decode(container.streams.audio[0]))
    assert abs(seconds - 2) < MILLISECOND
    # A cut piece begins with its first picture.
    carry(source, tmp_path / "cut.mkv", start=0.2)
    with av.open(str(tmp_path / "cut.mkv")) as container:
        assert next(container.decode(container.streams.video[0])).pts == 0
        container.seek(0)
        seconds = sum(Fraction(frame.samples, frame.rate) for frame in container.decode(container.streams.audio[0]))
    assert abs(float(seconds) - 1.5) < MILLISECOND


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_longer_or_shorter_than_the_picture(suffix, tmp_path):
    long = Sound(noise(3.0, 44100), 44100, "pcm_s16le")
    source = write_pictures_and_sounds(tmp_path / "a.avi", [long], video="mjpeg")
    carry(source, tmp_path / f"long{suffix}")
    assert_in_place(tmp_path / f"long{suffix}", placed(long), [(1.5, 2.5), (2.8, 2.99)])
    carry(source, tmp_path / f"cut{suffix}", num_frames=30)
    assert_in_place(tmp_path / f"cut{suffix}", placed(long), [(0.01, 0.5), (1.0, 1.19)])
    assert level(heard(tmp_path / f"cut{suffix}"), 1.23, 4) < 1e-3
    short = Sound(noise(0.5, 44100), 44100, "pcm_s16le")
    source = write_pictures_and_sounds(tmp_path / "b.avi", [short], video="mjpeg")
    carry(source, tmp_path / f"short{suffix}")
    assert_in_place(tmp_path / f"short{suffix}", placed(short), [(0.01, 0.3), (0.35, 0.49)])
    notes = carry(source, tmp_path / f"none{suffix}", start=1.0)
    assert notes == ["left out: sound track 1 (pcm_s16le), nothing of it is heard in this piece"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8"])
def test_gaps_stay_as_long_as_they_are(codec, suffix, tmp_path):
    gaps = [(Fraction(5, 10), Fraction(9, 10)), (Fraction(12, 10), Fraction(13, 10))]
    sound = Sound(noise(SECONDS, 44100), 44100, codec, gaps=gaps)
    source = write_pictures_and_sounds(tmp_path / "a.mkv", [sound])
    carry(source, tmp_path / f"out{suffix}")
    assert_in_place(tmp_path / f"out{suffix}", placed(sound), [(0.1, 0.49), (0.92, 1.18), (1.32, 1.9)])
    assert level(heard(tmp_path / f"out{suffix}"), 0.55, 0.85) < 2e-3


def test_packets_without_times_or_durations_are_not_dropped(tmp_path):
    rate = 8000
    sound = Sound(noise(SECONDS, rate), rate, "pcm_mulaw", start=Fraction(1))
    plain = write_with_ffmpeg(tmp_path / "late.mkv", sound, "-c:v", "copy", "-c:a", "pcm_mulaw")
    with av.open(str(plain)) as container:
        durations = [packet.duration for packet in container.demux(audio=0) if packet.size]
    carry(plain, tmp_path / "out.mp4", start=0.0)
    # From 1.00 to 3.00 s, as in the source; the picture ends at 2 s.
    assert_in_place(tmp_path / "out.mp4", placed(sound), [(1.01, 1.1), (1.5, 2.0), (2.9, 2.99)])
    assert len(durations) > 10


def test_sound_whose_form_changes_on_the_way(tmp_path):
    first = Sound(noise(1.0, 48000, seed=1), 48000, "aac", "stereo")
    second = Sound(noise(1.0, 32000, seed=2), 32000, "aac", "mono")
    for name, sound in (("a.ts", first), ("b.ts", second)):
        write_pictures_and_sounds(tmp_path / name, [sound], 25)
    (tmp_path / "two.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    notes = carry_beside(tmp_path / "two.ts", tmp_path / "out.mp4", 50)
    assert any("changes its form" in note for note in notes)
    found = heard(tmp_path / "out.mp4")
    shift, likeness = shift_and_likeness(found, placed(first), 0.2, 0.8)
    assert abs(shift) <= 2 * MILLISECOND
    assert likeness > 10
    second.start = Fraction(1)
    shift, likeness = shift_and_likeness(found, placed(second), 1.2, 1.8)
    assert abs(shift) <= DRIFT  # the first part's last packet is longer than its picture
    assert likeness > 10


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_more_than_eight_channels(suffix, tmp_path):
    samples = np.stack([noise(SECONDS, 48000, seed=min(index, 2)) for index in range(16)], axis=1)
    sound = Sound(samples, 48000, "pcm_s24le", "16 channels")
    source = write_pictures_and_sounds(tmp_path / "a.mov", [sound])
    notes = carry(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        frame = next(container.decode(container.streams.audio[0]))
        channels = len(frame.layout.channels)
    if suffix == ".mp4":
        assert channels == 2
        assert "the 16 channels of sound track 1 (pcm_s24le) became 2" in notes
        both = Sound((samples[:, 0] + samples[:, 1]) / 2, 48000)
        assert_in_place(tmp_path / "out.mp4", placed(both), [(0.1, 1.5)])
    else:
        assert channels == 16
        assert notes == []


def test_two_channels_without_a_name_are_left_and_right():
    samples = np.stack([np.full(100, 1000), np.full(100, -1000)], axis=1).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="2 channels")
    frame.sample_rate = 8000
    named = with_named_speakers(frame)
    assert named.layout.name == "stereo"
    assert np.array_equal(named.to_ndarray().reshape(-1, 2), samples)


def test_aac_gets_the_layout_that_has_all_speakers():
    expected = {
        **{"mono": "mono", "stereo": "stereo", "2.1": "5.1", "quad": "5.0", "5.1(side)": "5.1", "5.0(side)": "5.0"},
        **{"3.0": "3.0", "4.0": "4.0", "6.1": "5.1", "7.1": "5.1", "5.1": "5.1"},
    }
    assert {name: aac_layout(av.AudioLayout(name)) for name in expected} == expected


def test_what_is_copied_where_is_written_down():
    for suffix in (".mp4", ".m4v"):
        for codec in ("pcm_s24le", "pcm_s16le", "pcm_u8", "vorbis", "truehd", "dts", "mp2", "wmav2", "pcm_mulaw"):
            assert sound_codecs(codec, suffix) == ["aac"]
    assert sound_codecs("aac", ".mp4") == ["copy", "aac"]
    assert sound_codecs("flac", ".mp4") == ["flac", "copy", "aac"]
    assert sound_codecs("pcm_s24le", ".mov") == ["pcm_s24le", "aac"]
    assert sound_codecs("pcm_s24be", ".mkv") == ["pcm_s24le", "aac"]
    assert sound_codecs("pcm_bluray", ".mov") == ["pcm_s24le", "aac"]
    assert sound_codecs("truehd", ".mkv") == ["copy", "aac"]
    assert sound_codecs("no such codec", ".mkv") == ["aac"]


def test_copied_packets_follow_each_other_evenly_where_the_source_rounded_times(sources, tmp_path):
    source, _ = sources("obs.mkv")
    notes = carry(source, tmp_path / "out.mp4")
    assert notes == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [packet.pts for packet in container.demux(audio=0) if packet.size]
    assert {b - a for a, b in pairwise(times)} == {1024}


def test_sound_that_cannot_be_decoded_is_left_out_and_named(tmp_path):
    sound = Sound(noise(SECONDS, 48000), 48000, "mp2")
    source = write_pictures_and_sounds(tmp_path / "a.mkv", [sound])
    data = source.read_bytes()
    # A codec that nobody knows.
    (tmp_path / "b.mkv").write_bytes(data.replace(b"A_MPEG/L2", b"A_MPEG/X9"))
    notes = carry(tmp_path / "b.mkv", tmp_path / "out.mp4")
    assert notes == ["left out: sound track 1 (unknown), nothing here knows its codec"]
    # Only noise in its packets.
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    for packet in packets:
        data = data.replace(packet, b"\x55" * len(packet))
    (tmp_path / "c.mkv").write_bytes(data)
    notes = carry(tmp_path / "c.mkv", tmp_path / "out.mp4")
    assert len(notes) == 1
    assert notes[0].startswith("left out: sound track 1 (mp2), ")


@pytest.mark.parametrize("codec", ["pcm_s16le", "aac"])
@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
@pytest.mark.parametrize("out", [".mp4", ".mkv"])
def test_joined_files_are_heard_as_they_are_seen(codec, suffix, out, tmp_path):
    codec = "mp2" if suffix == ".ts" and codec != "aac" else codec
    sound = Sound(noise(1.0, 48000), 48000, codec, "stereo")
    part = write_pictures_and_sounds(tmp_path / f"a{suffix}", [sound], 25)
    (tmp_path / f"three{suffix}").write_bytes(part.read_bytes() * 3)
    alone = heard(part)
    carry(tmp_path / f"three{suffix}", tmp_path / f"out{out}")
    assert len(list(VideoReader(tmp_path / f"out{out}").times())) == 75
    found = heard(tmp_path / f"out{out}")
    for begin in (0.0, 1.0, 2.0):
        shift, likeness = shift_and_likeness(found[round(begin * 44100) :], alone, 0.1, 0.9)
        assert abs(shift) <= (DRIFT if begin else MILLISECOND)
        assert likeness > 10


def test_a_joined_stream_is_in_place_on_both_sides_of_the_joint(tmp_path):
    sound = Sound(noise(1.0, 48000), 48000, "mp2", "stereo")
    part = write_pictures_and_sounds(tmp_path / "a.ts", [sound], 25)
    (tmp_path / "two.ts").write_bytes(part.read_bytes() * 2)
    alone = heard(part)
    carry_beside(tmp_path / "two.ts", tmp_path / "out.mp4", 50)
    found = heard(tmp_path / "out.mp4")
    for begin in (0.0, 1.0):
        shift, likeness = shift_and_likeness(found[round(begin * 44100) :], alone, 0.1, 0.9)
        assert abs(shift) <= (DRIFT if begin else MILLISECOND)
        assert likeness > 10
