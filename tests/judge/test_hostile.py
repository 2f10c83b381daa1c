"""What a judge's server may send: nothing of it stops the run, hangs it, or leaves it with a traceback."""

import gzip
import json
import time
from dataclasses import replace

import pytest

from sama_video.judge import endpoint
from sama_video.judge.answers import AnswerStore, read_answers
from sama_video.judge.client import Judge, JudgeStoppedError
from sama_video.judge.parsing import MalformedAnswerError, Scale, parse_blocks, parse_lines, parse_scores
from sama_video.judge.questions import LONGEST_TEXT
from sama_video.judge.redact import LONGEST_REASON, one_line
from sama_video.system.errors import UserError
from tests.judge.test_client import QUESTION, config_for
from tests.judge_server import USAGE, JudgeServer, Mishap, completion_body, error_body

GOOD = '{"a_score": 9, "b_score": 2, "explanation": "so"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
# Far above the time limit of one second that the requests here have, and far below what these servers would take.
SOON = 60.0


def wire(*pieces):
    return Mishap(wire=lambda: pieces)


def body(content: bytes, more: bytes = b"") -> Mishap:
    return wire(HEAD + more + b"Content-Length: " + str(len(content)).encode() + b"\r\n\r\n" + content)


def dribble(first: bytes):
    """A byte each half a second: sooner than any limit from byte to byte."""
    yield first
    while True:
        time.sleep(0.3)
        yield b" "


def endless(first: bytes, piece: bytes):
    yield first
    while True:
        yield piece


def in_body(**changes):
    """A completion's body with other values in its message."""
    whole = json.loads(completion_body(GOOD))
    whole["choices"][0]["message"].update(changes)
    return Mishap(body=json.dumps(whole))


def at_top(**changes):
    return Mishap(body=json.dumps({**json.loads(completion_body(GOOD)), **changes}))


DIGITS = GOOD.replace("9", "9" * 5000)
DEEP = "[" * 10_000 + "]" * 10_000
LATE = {
    "a byte now and then": Mishap(wire=lambda: dribble(HEAD + b"Content-Length: 1000000\r\n\r\n")),
    "a chunk now and then": Mishap(
        wire=lambda: (
            piece and b"1\r\n \r\n" if i else piece + b"Transfer-Encoding: chunked\r\n\r\n"
            for i, piece in enumerate(dribble(HEAD))
        )
    ),
    "a header now and then": Mishap(wire=lambda: dribble(b"HTTP/1.1 200 OK\r\nX: ")),
    "no answer at all": Mishap(delay=3.0, closes=True),
}
ERRORS = {
    **LATE,
    "a body without end": Mishap(wire=lambda: endless(HEAD + b"\r\n", b" " * 2**16)),
    "chunks without end": Mishap(
        wire=lambda: endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 2**16 + b"\r\n")
    ),
    "headers without end": Mishap(wire=lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X-Y: " + b"z" * 2**12 + b"\r\n")),
    "a body of 9 MiB": body(completion_body("x" * 9 * 2**20).encode()),
    "a gzip bomb": body(gzip.compress(b" " * 2**26, 9), b"Content-Encoding: gzip\r\n"),
    "half of a gzip file": body(gzip.compress(completion_body(GOOD).encode())[:-20], b"Content-Encoding: gzip\r\n"),
    "no gzip file": body(completion_body(GOOD).encode(), b"Content-Encoding: gzip\r\n"),
    "packed in an unknown way": body(completion_body(GOOD).encode(), b"Content-Encoding: br\r\n"),
    "half a body": wire(HEAD + b"Content-Length: 1000\r\n\r\n{"),
    "no HTTP": wire(b"\x00\x01\x02\xff" * 100),
    "HTML with status 200": Mishap(body="<!doctype html><h1>It works</h1>"),
    "nothing": Mishap(body=""),
    "null": Mishap(body="null"),
    "a number": Mishap(body="7"),
    "no UTF-8": body(completion_body(GOOD).encode().replace(b"so", b"\xff\xfe")),
    "nested 100,000 deep": Mishap(body="[" * 100_000),
    "an integer of 5,000 digits beside the answer": Mishap(body=completion_body(GOOD)[:-1] + f', "n": {"9" * 5000}}}'),
    "choices as an object": at_top(choices={"0": 1}),
    "no choices": at_top(choices=[]),
    "choices of null": at_top(choices=[None]),
    "a message that is a text": at_top(choices=[{"message": "9"}]),
    "content as an object": in_body(content={"text": GOOD}),
    "content true": in_body(content=True),
    "content as a list of texts": in_body(content=[GOOD]),
    "content as parts of other types": in_body(content=[{"type": "text", "text": 9}]),
}
PARSE_FAILED = {
    "no content": in_body(content=None),
    "lone surrogates": Mishap(text="\ud800 nine \udfff"),
    "an integer of 5,000 digits": Mishap(text=DIGITS),
    "an answer nested 10,000 deep": Mishap(text=f'{{"a_score": {DEEP}}}'),
    "an answer that opens 10,000 objects": Mishap(text='{"a":' * 10_000),
    "NUL bytes": Mishap(text="\x00" * 100),
    "a terminal's escape sequences": Mishap(text="\x1b]0;owned\x07 {\x1b[2J}"),
    "quotation marks without end": Mishap(text="{" + '\\"' * 100_000),
    "an answer of 1 MiB": Mishap(text=GOOD + " " * 2**20),
    "scores of null": Mishap(text=GOOD.replace("9", "null")),
    "scores in lists": Mishap(text=GOOD.replace("9", "[9]")),
    "scores without end": Mishap(text=GOOD.replace("9", "1e999")),
    "a million keys": Mishap(text="{" + ", ".join(f'"{n}": 1' for n in range(20_000)) + "}"),
}
OK = {
    "usage null": Mishap(body=completion_body(GOOD, usage=None)),
    "usage a list": Mishap(body=completion_body(GOOD, usage=[1])),
    "usage of texts": Mishap(body=completion_body(GOOD, usage={"prompt_tokens": "many", "completion_tokens": None})),
    "usage below nothing": Mishap(body=completion_body(GOOD, usage={"prompt_tokens": -5, "completion_tokens": True})),
    "usage without end": Mishap(body=completion_body(GOOD, usage={"prompt_tokens": 10**40, "completion_tokens": 1e9})),
    "content in parts": in_body(content=[{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}]),
    "a refusal of another type": in_body(refusal=["no"]),
    "a reason of another type": Mishap(body=completion_body(GOOD).replace('"stop"', "[7]")),
    "gzip that was not asked for": body(gzip.compress(completion_body(GOOD).encode()), b"Content-Encoding: gzip\r\n"),
    "a body without a length": wire(HEAD + b"\r\n" + completion_body(GOOD).encode()),
    "surrogates in the explanation": Mishap(text=GOOD.replace("so", "\ud800")),
}
BEHAVIOURS = {
    f"{status}: {name}": (mishap, status)
    for status, group in (("error", ERRORS), ("parse_failed", PARSE_FAILED), ("ok", OK))
    for name, mishap in group.items()
}


def test_there_are_enough_of_them():
    assert len(BEHAVIOURS) > 50


@pytest.mark.parametrize(("mishap", "status"), BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_whatever_a_server_sends_is_recorded_and_the_next_question_is_asked(tmp_path, mishap, status):
    path = tmp_path / "answers.jsonl"
    started = time.monotonic()
    with JudgeServer([mishap]) as server, AnswerStore(path) as store:
        judge = Judge(config_for(server, timeout=1.0, max_tries=1, max_attempts=1), store)
        answer = judge.answer(QUESTION, list)
        assert time.monotonic() - started < SOON
        assert judge.answer(replace(QUESTION, repeat=1), list).status == "ok"
    assert answer.status == status
    assert (answer.reason == "") == (status == "ok")
    assert len(answer.reason) <= LONGEST_REASON + 2
    assert answer.reason == one_line(answer.reason)
    assert len(answer.text) <= LONGEST_TEXT
    assert answer.scores == ({"a_score": 9.0, "b_score": 2.0} if status == "ok" else None)
    assert [one.status for one in read_answers(path).values()] == [status, "ok"]
    path.read_text(encoding="utf-8")


@pytest.mark.parametrize("mishap", OK.values(), ids=OK)
def test_tokens_are_counted_where_the_server_counts_them(tmp_path, mishap):
    with JudgeServer([mishap]) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        answer = Judge(config_for(server), store).answer(QUESTION, list)
    assert (answer.input_tokens, answer.output_tokens) in ((0, 0), (USAGE["prompt_tokens"], USAGE["completion_tokens"]))


@pytest.mark.parametrize("mishap", LATE.values(), ids=LATE)
def test_the_time_limit_is_a_whole_requests(tmp_path, mishap):
    with JudgeServer([mishap]) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        answer = Judge(config_for(server, timeout=0.8, max_tries=1), store).answer(QUESTION, list)
    assert "no whole answer within 0.8 s" in answer.reason or "timed out" in answer.reason


def test_a_body_is_cut_where_it_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "_LARGEST_BODY", 2**20)
    with JudgeServer([ERRORS["a body without end"]]) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        answer = Judge(config_for(server, timeout=60.0, max_tries=1), store).answer(QUESTION, list)
    assert "larger than 1 MiB" in answer.reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_videos_are_not_sent_on_to_another_host(tmp_path, status):
    with JudgeServer() as other:
        place = other.base_url.replace("127.0.0.1", "localhost") + "/secret-path?token=abcdef"
        redirect = Mishap(status, error_body("over there"), headers=(("Location", place),))
        with JudgeServer(always=redirect) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
            with pytest.raises(JudgeStoppedError, match=r"sends every request on to http://localhost .*`base_url`"):
                Judge(config_for(server), store).answer(QUESTION, list)
            assert len(server.requests) == 1
        assert other.requests == []


@pytest.mark.parametrize("place", ["", "//[", "\\\\evil", "/v2/chat"])
def test_a_redirection_to_nowhere_is_one_sentence(tmp_path, place):
    redirect = Mishap(307, "", headers=(("Location", place),))
    stops = pytest.raises(JudgeStoppedError, match=r"sends every request on \(status 307\)")
    with JudgeServer(always=redirect) as server, AnswerStore(tmp_path / "answers.jsonl") as store, stops:
        Judge(config_for(server), store).answer(QUESTION, list)


def test_a_question_that_cannot_be_sent_is_recorded(tmp_path):
    with JudgeServer() as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        judge = Judge(config_for(server), store)
        assert judge.answer(replace(QUESTION, prompt="\ud800"), list).status == "error"
        assert judge.answer(QUESTION, list).status == "ok"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_a_number_of_seconds(value):
    with JudgeServer() as server, pytest.raises(UserError, match="`timeout` must be"):
        config_for(server, timeout=value)


# Parsing takes time in proportion to the text


CRAFTED = {
    "escaped quotation marks": '\\"',
    "quotation marks": '"',
    "backslashes": "\\",
    "a quotation mark and backslashes": '"\\\\',
    "commas and blanks": ",  ",
    "commas and line breaks": ",\n",
    "braces": "{",
    "closing braces": "}",
    "brackets in an object": '{"a":[',
    "empty objects": "{}",
    "digits": "9",
    "fractions": "1.",
    "stars": "*",
    "colons": ": ",
    "labels": "Compliance: 4\n",
    "thoughts": "<think>",
    "ends of thoughts": "</think>",
    "line breaks": "\n",
    "strings": '"a",',
}


@pytest.mark.parametrize("around", ["{}", '{{"a_score": "{}', "Compliance: {}"])
@pytest.mark.parametrize("piece", CRAFTED.values(), ids=CRAFTED)
def test_a_text_of_a_megabyte_is_read_in_seconds(piece, around):
    text = around.format(piece * (2**20 // len(piece)))
    started = time.process_time()
    for parse in (
        lambda: parse_scores(text, ("a_score",)),
        lambda: parse_blocks(text, {"a": ("b",)}, Scale()),
        lambda: parse_lines(text, {"Compliance": "a"}, Scale()),
    ):
        with pytest.raises(MalformedAnswerError):
            parse()
    assert time.process_time() - started < 8  # a parser that takes the square of the length takes days
