"""Outputs are whole or not there, and what killed processes leave is swept."""

import os
import subprocess
import sys

import pytest

from sama_video.system import files
from sama_video.system.errors import UserError
from sama_video.system.files import check_folder, folder_made, longest_name, sweep, written_aside


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def owner(pid, machine=None, number=0):
    return f"{machine or files._machine()}-{pid}-{number}"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def plant(folder, *names):
    for name in names:
        (folder / name).write_text("left")


def write_half(path):
    with written_aside(path) as aside:
        aside.write_text("newer")
        raise RuntimeError


def write_folder(path, name):
    with written_aside(path) as aside:
        aside.mkdir()
        plant(aside, name)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.mp4"
    with written_aside(path) as aside:
        aside.write_text("new")
        assert aside.suffix == ".mp4"
        assert aside.is_absolute()
        assert not path.exists()
        sweep(tmp_path)  # what is being written is nobody's leftover
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.mp4"]


def test_two_may_write_the_same_name_at_once(tmp_path):
    path = tmp_path / "a.txt"
    with written_aside(path) as one, written_aside(path) as other:
        one.write_text("1" * 1000)
        other.write_text("2" * 1000)
    assert set(path.read_text()) == {"1"}
    assert names(tmp_path) == ["a.txt"]


def test_what_dead_processes_left_is_removed(tmp_path, dead):
    plant(tmp_path, f".a.{owner(dead)}.part.mp4", f".b.{dead}.part.mp4", f".c.{owner(dead)}.part", f".e.{dead}.part")
    folder = tmp_path / f".d.{owner(dead)}.part"
    folder.mkdir()
    plant(folder, "half")
    with written_aside(tmp_path / "new.mp4") as aside:
        aside.touch()
    assert names(tmp_path) == ["new.mp4"]


def test_what_is_not_a_dead_process_s_stays(tmp_path, dead):
    kept = [
        f".a.{owner(os.getppid())}.part.mp4",  # alive
        f".a.{os.getppid()}.part.mp4",
        f".a.{owner(dead, machine='0123abcd')}.part.mp4",  # of another machine on a shared disk
        f"a.{owner(dead)}.part.mp4",  # the user's
        f".a.{dead}.mp4",
        f".a.{dead}.part.mp4.txt",
        f".a.{dead}.old",
        ".holiday.20240101.part.mp4",
        ".part",
        ".config",
        f".a.{owner(dead)}.parts",
    ]
    plant(tmp_path, *kept)
    sweep(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_a_number_that_is_ours_now_was_another_s_before(tmp_path):
    plant(tmp_path, f".a.{owner(os.getpid(), number=10**9)}.part.mp4")
    sweep(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the state of a process is read from /proc")
def test_a_process_that_nobody_waited_for_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()  # until it has ended; it is a zombie until `wait`
        while files._is_running(process.pid):
            pass
        plant(tmp_path, f".a.{owner(process.pid)}.part.mp4")
        sweep(tmp_path)
        assert names(tmp_path) == []


def test_a_folder_killed_between_its_renames_comes_back(tmp_path, dead):
    old = tmp_path / f".page.v1.{owner(dead)}.old"
    old.mkdir()
    plant(old, "kept")
    sweep(tmp_path)
    assert names(tmp_path) == ["page.v1"]
    assert names(tmp_path / "page.v1") == ["kept"]


def test_a_folder_killed_after_its_renames_stays_the_new_one(tmp_path, dead):
    for name in ("page", f".page.{owner(dead)}.old"):
        (tmp_path / name).mkdir()
    plant(tmp_path / "page", "new")
    sweep(tmp_path)
    assert names(tmp_path) == ["page"]
    assert names(tmp_path / "page") == ["new"]


def test_a_folder_is_replaced_and_survives_a_failed_rename(tmp_path, monkeypatch):
    path = tmp_path / "page"
    for content in ("one", "two"):
        write_folder(path, content)
    assert names(path) == ["two"]
    rename = os.replace

    def interrupted(source, target):
        if str(target) == str(path) and ".part" in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(path, "three")
    assert names(tmp_path) == ["page"]
    assert names(path) == ["two"]


@pytest.mark.parametrize(
    "name",
    [
        "12:30 clip.mp4",
        "-x.mp4",
        "a\nb.mp4",
        "%03d.png",
        "é" * 120 + ".mp4",
        "n" * 251 + ".mp4",
        ".hidden",
        "a.",
        "a b",
    ],
)
def test_names_of_every_kind(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)(name)
    assert len(os.fsencode(name)) <= longest_name(tmp_path)
    for _ in range(2):
        with written_aside(path) as aside:
            assert len(os.fsencode(aside.name)) <= longest_name(tmp_path)
            aside.write_text("new")
    assert names(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names to be text")
def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    with written_aside(path) as aside:
        aside.write_text("new")
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"caf\xe9.mp4"]


def test_folders_that_hold_nothing_in_the_end_are_not_left(tmp_path):
    with folder_made(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    assert names(tmp_path) == []
    with folder_made(tmp_path / "a" / "b") as folder:
        (folder / "x").touch()
    with folder_made(tmp_path / "a" / "c"):
        pass
    assert names(tmp_path / "a") == ["b"]
    (tmp_path / "empty").mkdir()
    with folder_made(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_folder_is_checked_without_making_it(tmp_path):
    (tmp_path / "file").touch()
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(UserError, match="cannot make the folder"):
            check_folder(path)
    assert names(tmp_path) == ["file"]
