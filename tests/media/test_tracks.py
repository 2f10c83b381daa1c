"""Everything beside the pictures: further sound tracks, subtitles, chapters, titles; what is left out is named."""

import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import pytest

from sama_video.editing import EditSettings, edit_video, read_sidecar
from sama_video.media.subtitles import Line, cut_lines, one_at_a_time
from sama_video.system.errors import UserError
from tests import tiny
from tests.tones import Sound, carry, heard, noise, shift_and_likeness, write_pictures_and_sounds

ENGLISH = Sound(noise(2.0, 44100, seed=1), metadata={"language": "eng", "title": "Speaker"})
GERMAN = Sound(noise(2.0, 44100, seed=2), metadata={"language": "deu"})
SRT = """1
00:00:00,200 --> 00:00:00,700
Hello <i>there</i>

2
00:00:00,900 --> 00:00:01,500
Two
lines

3
00:00:01,600 --> 00:00:01,900
Last
"""


def ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def lines_of(path, track=0):
    """(start, end, words) as FFmpeg's command reads them."""
    blocks = ffmpeg("-i", path, "-map", f"0:s:{track}", "-f", "srt", "-").decode().strip().split("\n\n")
    found = []
    for block in blocks:
        _, times, *words = block.splitlines()
        start, end = (
            float(h) * 3600 + float(m) * 60 + float(s.replace(",", "."))
            for h, m, s in (time.split(":") for time in times.split(" --> "))
        )
        found.append((start, end, " ".join(words)))
    return found


@pytest.fixture
def two_sounds(tmp_path):
    return write_pictures_and_sounds(tmp_path / "two.mp4", [ENGLISH, GERMAN])


def with_subtitles(folder, source, codec, suffix, *options):
    (folder / "lines.srt").write_text(SRT)
    path = folder / f"subtitled{suffix}"
    maps = ["-map", "0", "-map", "1", "-c", "copy", "-c:s", codec, "-metadata:s:s:0", "language=fra"]
    ffmpeg("-i", source, "-i", folder / "lines.srt", *maps, *options, path)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv"])
def test_all_sound_tracks_come_with_their_names(suffix, tmp_path):
    out = tmp_path / f"out{suffix}"
    carry(write_pictures_and_sounds(tmp_path / "two.mkv", [ENGLISH, GERMAN]), out, start=0.2, num_frames=30)
    with av.open(str(out)) as container:
        streams = container.streams.audio
        assert [stream.language for stream in streams] == ["eng", "ger" if suffix == ".mov" else "deu"]
        assert [bool(stream.disposition & av.stream.Disposition.default) for stream in streams] == [True, False]
        assert streams[0].metadata["title" if suffix == ".mkv" else "handler_name"] == "Speaker"
    for track, sound in enumerate((ENGLISH, GERMAN)):
        shift, likeness = shift_and_likeness(heard(out, track), sound.samples[round(0.2 * 44100) :], 0.1, 1.0)
        assert abs(shift) < 1e-3
        assert likeness > 10


@pytest.mark.parametrize("codec", ["mov_text", "srt", "ass", "webvtt"])
@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv"])
def test_subtitles_move_with_the_start_and_are_cut_with_the_clip(codec, suffix, two_sounds, tmp_path):
    source = with_subtitles(tmp_path, two_sounds, codec, ".mp4" if codec == "mov_text" else ".mkv")
    notes = carry(source, tmp_path / f"out{suffix}", start=0.4, num_frames=25)
    assert not [note for note in notes if "left out" in note]
    found = lines_of(tmp_path / f"out{suffix}")
    wanted = [(0.0, 0.3, "Hello <i>there</i>"), (0.5, 1.0, "Two lines")]
    assert [words.replace('<font face="Arial">', "").replace("</font>", "") for *_, words in found] == [
        words for *_, words in wanted
    ]
    for (start, end, _), (wanted_start, wanted_end, _) in zip(found, wanted, strict=True):
        assert start == pytest.approx(wanted_start, abs=0.002)
        assert end == pytest.approx(wanted_end, abs=0.002)
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.subtitles[0].language == "fra"


def test_a_piece_without_lines_says_so(two_sounds, tmp_path):
    source = with_subtitles(tmp_path, two_sounds, "mov_text", ".mp4")
    notes = carry(source, tmp_path / "out.mp4", num_frames=4)
    assert notes == ["left out: subtitle track 1 (mov_text, fra), nothing of it is shown in this piece"]


def test_lines_at_the_same_time_are_shown_together():
    lines = [Line(Fraction(0), Fraction(5), b"A"), Line(Fraction(2), Fraction(3), b"B")]
    assert list(one_at_a_time(lines)) == [
        Line(Fraction(0), Fraction(2), b"A"),
        Line(Fraction(2), Fraction(3), b"A\\NB"),
        Line(Fraction(3), Fraction(5), b"A"),
    ]
    assert cut_lines(lines, Fraction(1), Fraction(3, 2), Fraction(0)) == [
        Line(Fraction(0), Fraction(3, 2), b"A"),
        Line(Fraction(1), Fraction(3, 2), b"B"),
    ]


def test_pictures_of_words_are_kept_where_they_fit_and_named_where_not(two_sounds, tmp_path):
    source = with_bitmap_subtitles(tmp_path, two_sounds)
    notes = carry(source, tmp_path / "out.mp4")
    assert notes == ["left out: subtitle track 1 (dvd_subtitle, eng), MP4 cannot hold it; use -o x.mkv"]
    assert [note for note in carry(source, tmp_path / "out.mkv") if "left out" in note] == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        stream = container.streams.subtitles[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert stream.codec_context.codec.canonical_name == "dvd_subtitle"
        assert [float(packet.pts * packet.time_base) for packet in packets] == pytest.approx([0.5])


def with_bitmap_subtitles(folder, source):
    """FFmpeg draws no subtitles: a small DVD one, put together by hand."""
    # Control sequence: palette, contrast, area (0,0)..(7,1), field offsets, start; then stop after 1 s.
    pixels = bytes([0x20, 0x00, 0x20, 0x00])
    area = bytes([0x05, 0x00, 0x00, 0x07, 0x00, 0x00, 0x01])
    show = bytes([0x03, 0x32, 0x10, 0x04, 0xFF, 0xF0]) + area + bytes([0x06, 0x00, 0x04, 0x00, 0x06, 0x01, 0xFF])
    control = 4 + len(pixels)
    last = control + 4 + len(show)
    body = pixels + (0).to_bytes(2, "big") + last.to_bytes(2, "big") + show
    body += (90).to_bytes(2, "big") + last.to_bytes(2, "big") + bytes([0x02, 0xFF])
    packet_bytes = (len(body) + 4).to_bytes(2, "big") + control.to_bytes(2, "big") + body
    path = folder / "bitmap.mkv"
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        streams = {s.index: container.add_stream_from_template(s) for s in (given.streams.video[0],)}
        words = container.add_stream("dvd_subtitle")
        words.codec_context.time_base = Fraction(1, 1000)
        words.metadata["language"] = "eng"
        words.codec_context.options["palette"] = ",".join(["000000"] * 16)
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
        packet = av.Packet(packet_bytes)
        packet.pts = packet.dts = 500
        packet.duration, packet.time_base, packet.stream = 1000, Fraction(1, 1000), words
        container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv"])
def test_chapters_and_titles_come_along(suffix, two_sounds, tmp_path):
    (tmp_path / "chapters.txt").write_text(
        ";FFMETADATA1\ntitle=A cup\nartist=Somebody\ncomment=on a table\n"
        + "".join(
            f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n"
            for start, end, title in ((0, 300, "first"), (300, 1000, "second"), (1000, 1900, "third"))
        )
    )
    source = tmp_path / "chapters.mp4"
    ffmpeg("-i", two_sounds, "-i", tmp_path / "chapters.txt", "-map", "0", "-map_metadata", "1", "-c", "copy", source)
    notes = carry(source, tmp_path / f"out{suffix}", start=0.4, num_frames=20)
    assert not [note for note in notes if "left out" in note]
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        found = [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"]["title"])
            for c in container.chapters()
        ]
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert found == [(0.0, pytest.approx(0.6), "second"), (pytest.approx(0.6), pytest.approx(0.8), "third")]
    assert (tags["title"], tags["artist"], tags["comment"]) == ("A cup", "Somebody", "on a table")


def test_data_attachments_covers_and_further_pictures_are_named(two_sounds, tmp_path):
    (tmp_path / "font.ttf").write_bytes(b"not really a font")
    source = tmp_path / "rich.mkv"
    options = ["-map", "0", "-map", "0:v", "-c", "copy", "-attach", tmp_path / "font.ttf"]
    ffmpeg("-i", two_sounds, *options, "-metadata:s:t", "mimetype=font/ttf", source)
    notes = carry(source, tmp_path / "out.mkv")
    assert "left out: video track 2" in notes
    assert "left out: 1 attachments (font.ttf)" in notes
    source = tmp_path / "timecode.mov"
    ffmpeg("-i", two_sounds, "-map", "0", "-c", "copy", "-timecode", "01:00:00:00", source)
    notes = carry(source, tmp_path / "out.mp4")
    assert len(notes) == 1
    assert notes[0].startswith("left out: 1 data tracks (")


def test_what_happened_to_the_tracks_is_in_the_record(tmp_path):
    pipe = tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)
    sound = Sound(noise(0.5, 48000), 48000, "pcm_s24le")
    source = write_pictures_and_sounds(tmp_path / "a.mov", [sound], 12)
    edit_video(pipe, source, "make it red", tmp_path / "out.mp4", EditSettings(num_inference_steps=1))
    record = read_sidecar(tmp_path / "out.mp4")
    assert record is not None
    assert record["notes"] == [
        "sound track 1 (pcm_s24le) was encoded again as AAC: not every player reads pcm_s24le in MP4; "
        "use -o x.mkv to keep it"
    ]
    edit_video(pipe, source, "make it red", tmp_path / "out.mov", EditSettings(num_inference_steps=1))
    record = read_sidecar(tmp_path / "out.mov")
    assert record is not None
    assert record["notes"] == []


def test_a_writer_that_fails_is_found_out_before_the_first_step(tmp_path, monkeypatch):
    pipe = tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)
    source = write_pictures_and_sounds(tmp_path / "a.mp4", [ENGLISH], 12)
    steps = []

    # An FFmpeg without H.264, as some distributions have it.
    def without_h264(*_):
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr("sama_video.media.codecs.PictureCoding.add_stream", without_h264)
    with pytest.raises(UserError, match=r"MP4 with pictures of 64x48 .* cannot be written \(libx264\)"):
        edit_video(pipe, source, "make it red", tmp_path / "out.mp4", progress=lambda phase, *_: steps.append(phase))
    assert "editing" not in steps
    assert not (tmp_path / "out.mp4").exists()
