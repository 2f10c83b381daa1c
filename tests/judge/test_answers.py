"""The store loses nothing that was bought, survives torn lines, and has one writer."""

import json
import subprocess
import sys

import pytest

from sama_video.judge.answers import Answer, AnswerStore, merge_into, read_answers
from sama_video.system.errors import UserError


def answer(key, status="ok", **fields):
    return Answer(key=key, task="t/1", status=status, scores={"a_score": 9.0} if status == "ok" else None, **fields)


def test_what_was_appended_is_there_at_the_next_start(tmp_path):
    path = tmp_path / "out" / "answers.jsonl"
    with AnswerStore(path) as store:
        store.append(answer("1", text="ünï\ncode\u2028", attempts=2, input_tokens=5))
        assert store.get("1").scores == {"a_score": 9.0}
        assert store.get("2") is None
    with AnswerStore(path) as store:
        assert store.get("1").attempts == 2
        store.append(answer("2"))
    assert list(read_answers(path)) == ["1", "2"]
    assert json.loads(path.read_text().split("\n")[0])["text"] == "ünï\ncode\u2028"


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_dropped_and_the_store_goes_on(tmp_path, cut):
    path = tmp_path / "answers.jsonl"
    with AnswerStore(path) as store:
        store.append(answer("1"))
        store.append(answer("2"))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_answers(path)) == ["1"]
    with AnswerStore(path) as store:
        assert store.get("2") is None
        store.append(answer("3"))
    assert list(read_answers(path)) == ["1", "3"]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerStore(path) as store:
        store.append(answer("1"))
    path.write_bytes(b'{"key": 1\n' + path.read_bytes())
    with pytest.raises(UserError, match="line 1 of"):
        read_answers(path)


HOLDER = """
import sys, time
from pathlib import Path
from sama_video.judge.answers import AnswerStore
store = AnswerStore(Path(sys.argv[1]))
print("open", flush=True)
time.sleep(60)
"""


def test_two_processes_never_write_one_store_and_a_dead_ones_lock_is_free(tmp_path):
    path = tmp_path / "answers.jsonl"
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="another run writes"):
            AnswerStore(path)
        assert read_answers(path) == {}
        holder.kill()
    with AnswerStore(path) as store:
        store.append(answer("1"))


def test_merging_keeps_the_first_purchase_and_prefers_answers_to_errors(tmp_path):
    shards = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    with AnswerStore(shards[0]) as store:
        store.append(answer("1", status="error"))
        store.append(answer("2", text="first"))
    with AnswerStore(shards[1]) as store:
        store.append(answer("1", text="bought"))
        store.append(answer("2", text="second"))
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        merge_into(store, shards)
        assert store.get("1").status == "ok"
    texts = [json.loads(line)["text"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert texts == ["", "first", "bought"]
    assert [path.name for path in tmp_path.glob("?.jsonl*")] == []
