"""What a command shows while it works, outside a terminal and in one."""

import io
import threading

import pytest

from sama_video.cli.progress import ProgressBar


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def bar(clock, stream):
    return ProgressBar(stream=stream, clock=clock)


def test_a_line_every_ten_seconds_and_none_before(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        for done in range(61):
            progress("editing", done, 60)
            clock.now += 3.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "editing: 4 of 60, about 3 min left"
    assert lines[1] == "editing: 8 of 60, about 3 min left"
    assert lines[-1] == "editing: 56 of 60, about 12 s left"
    assert len(lines) == 14


def test_short_work_is_silent(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        for phase in ("reading", "editing", "writing"):
            for done in range(10):
                progress(phase, done + 1, 10)
                clock.now += 0.3
    assert stream.getvalue() == ""


def test_a_phase_without_calls_is_told_of_too(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        progress("editing", 0, 6)
        clock.now += 9.0
        progress.tick()
        assert stream.getvalue() == ""
        clock.now += 6.0
        progress.tick()
        progress.tick()
        assert stream.getvalue() == "editing: 15 s so far\n"
        clock.now += 3600
        progress.tick()
        assert stream.getvalue().splitlines()[-1] == "editing: 1.0 h so far"


def test_lines_come_by_themselves():
    """With the real clock and the thread behind it."""
    written = threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            written.set()
            return super().write(text)

    stream = Stream()
    with ProgressBar(stream=stream, every=0.05) as progress:
        progress("editing", 0, 6)
        assert written.wait(300)
    assert stream.getvalue().startswith("editing: 0 s so far\n")


def test_what_was_done_before_does_not_count_as_speed(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        progress("judging", 500, 1000)
        clock.now += 60.0
        progress("judging", 510, 1000)
    assert stream.getvalue() == "judging: 510 of 1000, about 49 min left\n"


def test_a_number_that_nobody_knows(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        progress("reading", 1, 0)
        clock.now += 20.0
        progress("reading", 40, 0)
    assert stream.getvalue() == "reading: 40\n"


def test_waiting_is_said_at_once(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        with progress.waiting("loading nano"):
            assert stream.getvalue() == "loading nano ...\n"
            clock.now += 30.0
            progress.tick()
        clock.now += 30.0
        progress.tick()
    assert stream.getvalue().splitlines() == ["loading nano ...", "loading nano: 30 s so far"]


def test_a_terminal_gets_bars_and_no_lines(clock):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with bar(clock, stream) as progress, progress.waiting("loading nano"):
        for done in range(4):
            progress("editing", done, 4)
            clock.now += 30.0
    text = stream.getvalue()
    assert "editing" in text
    assert "left" not in text
    assert "..." not in text


def test_a_stream_that_is_closed_stops_nothing(clock):
    stream = io.StringIO()
    with bar(clock, stream) as progress:
        progress("editing", 0, 4)
        stream.close()
        clock.now += 30.0
        progress("editing", 1, 4)
