"""A journal holds every record that was appended, whatever happened to the one after it."""

import resource
import subprocess
import sys

import pytest

from sama_video.system.errors import UserError
from sama_video.system.journal import Journal, read_journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "journal.jsonl"


def test_records_come_back_in_their_order(path):
    assert list(read_journal(path)) == []
    with Journal(path) as journal:
        journal.append({"b": 1, "a": "ü\n"})
        journal.append({"b": 2})
    with Journal(path) as journal:
        journal.append({"b": 3})
    assert list(read_journal(path)) == [{"b": 1, "a": "ü\n"}, {"b": 2}, {"b": 3}]


@pytest.mark.parametrize("torn", [b"{", b'{"b": 2}', b'{"b": "\xc3'])
def test_a_torn_line_does_not_count_and_is_cut_off(path, torn):
    with Journal(path) as journal:
        journal.append({"b": 1})
    with path.open("ab") as file:
        file.write(torn)
    assert list(read_journal(path)) == [{"b": 1}]
    with Journal(path) as journal:
        journal.append({"b": 3})
    assert list(read_journal(path)) == [{"b": 1}, {"b": 3}]


def test_a_damaged_line_is_named(path):
    with Journal(path) as journal:
        journal.append({"b": 1})
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(UserError, match=r"line 1 of .* is damaged"):
        list(read_journal(path))


def test_a_record_that_does_not_fit_leaves_no_part_of_it(path):
    with Journal(path) as journal:
        journal.append({"b": 1})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # the second write is cut short
        try:
            with pytest.raises(UserError, match="start the same command again"):
                journal.append({"b": "x" * 40})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        journal.append({"b": 2})
    assert list(read_journal(path)) == [{"b": 1}, {"b": 2}]


def test_one_process_writes(path):
    code = f"from pathlib import Path; from sama_video.system.journal import Journal; Journal(Path({str(path)!r}))"
    with Journal(path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another run writes" in second.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_folder_that_cannot_be_made_is_named(path, tmp_path):
    (tmp_path / "new").write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot make the folder .*new"):
        Journal(path)


def test_text_that_is_no_text(path):
    """Half a surrogate pair, as in a name that is not UTF-8 or a judge's answer, is kept; the file stays UTF-8."""
    records = [{"name": "caf\udce9.mp4", "é": 1}, {"name": "é"}]
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    path.read_text(encoding="utf-8")
    assert list(read_journal(path)) == records
