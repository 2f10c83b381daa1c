"""The judge against a real server that fails in every way: what is asked again, recorded, or stops the run."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from sama_video.judge.answers import AnswerStore
from sama_video.judge.client import Judge, JudgeStoppedError
from sama_video.judge.clips import MediaConfig, View, views_of
from sama_video.judge.questions import JudgeConfig, Question
from sama_video.system.errors import UserError
from tests.clips import write_clip
from tests.judge_server import JudgeServer, Mishap, completion_body, error_body, in_seconds

QUESTION = Question(task="t/1", prompt='Give "a_score" and "b_score".', views=(), dimensions=("a_score", "b_score"))


def config_for(server, **changes):
    settings = {"base_delay": 0.001, "max_delay": 0.002, "timeout": 5.0, "concurrency": 2, **changes}
    return JudgeConfig(model="judge", base_url=server.base_url, **settings)


def ask(server, tmp_path, question=QUESTION, **changes):
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        return Judge(config_for(server, **changes), store).answer(question, list)


FAILURES = {
    "500": Mishap(500, error_body("boom")),
    "502 as HTML": Mishap(502, "<html>bad gateway</html>", headers=(("Content-Type", "text/html"),)),
    "408": Mishap(408, error_body("slow")),
    "429": Mishap(429, error_body("busy"), headers=(("Retry-After", "0"),)),
    "HTML with 200": Mishap(200, "<html>log in</html>", headers=(("Content-Type", "text/html"),)),
    "half JSON": Mishap(200, completion_body("{}")[:50]),
    "another object": Mishap(200, '{"error": "overloaded"}'),
    "no choices": Mishap(200, completion_body("x").replace('"choices": [{', '"choices": [], "old": [{')),
    "hang up": Mishap(closes=True),
    "timeout": Mishap(200, completion_body("{}"), delay=1.3),
}


@pytest.mark.parametrize("mishap", FAILURES.values(), ids=FAILURES)
def test_failures_that_may_pass_are_tried_again(tmp_path, mishap):
    with JudgeServer() as quiet:
        expected = ask(quiet, tmp_path / "quiet")
    with JudgeServer([mishap]) as server:
        answer = ask(server, tmp_path, timeout=1.0 if mishap.delay else 60.0)
        assert len(server.requests) == 2
    assert answer == expected
    assert answer.status == "ok"
    assert answer.attempts == 1


def waits(server, tmp_path, **changes):
    """The seconds that the judge would have waited on its way to an answer."""
    seconds = []
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        Judge(config_for(server, **changes), store, wait=seconds.append).answer(QUESTION, list)
    return seconds


def test_retry_after_is_honoured_in_seconds_and_as_a_date(tmp_path):
    values = ("7", in_seconds(1000), "soon", "inf")
    mishaps = [Mishap(429, error_body("busy"), headers=(("Retry-After", value),)) for value in values]
    with JudgeServer(mishaps) as server:
        as_seconds, as_date, unreadable, endless = waits(server, tmp_path)
    assert as_seconds == 7
    assert 900 < as_date <= 1000
    assert 0 <= unreadable <= 0.002
    assert endless == 86_400


def test_waits_are_drawn_below_a_bound_that_doubles(tmp_path):
    with JudgeServer([FAILURES["500"]] * 7) as server:
        seconds = waits(server, tmp_path, base_delay=1.0, max_delay=5.0)
    assert all(0 <= wait <= bound for wait, bound in zip(seconds, (1, 2, 4, 5, 5, 5, 5), strict=True))
    assert len(set(seconds)) == 7


MALFORMED = ["I'd say 9.", '{"a_score": 9', '{"a_score": 9}', '{"a_score": 11, "b_score": 2, "explanation": ""}']


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_answers_are_asked_again_with_the_same_repeat(tmp_path, text):
    with JudgeServer([Mishap(text=text)]) as server:
        answer = ask(server, tmp_path, replace(QUESTION, repeat=2))
        assert [request["seed"] % 1000 for request in server.requests] == [2, 2]
        assert server.requests[0]["seed"] != server.requests[1]["seed"]
    assert answer.status == "ok"
    assert answer.attempts == 2
    assert answer.input_tokens == 200


def test_an_answer_that_stays_malformed_is_recorded_with_its_text_and_never_bought_again(tmp_path):
    with JudgeServer(always=Mishap(text="a solid 9")) as server:
        answer = ask(server, tmp_path)
        assert (answer.status, answer.scores, answer.text, answer.attempts) == ("parse_failed", None, "a solid 9", 3)
        assert ask(server, tmp_path).status == "parse_failed"
        assert len(server.requests) == 3


def test_fenced_answers_are_read_at_once(tmp_path):
    text = '```json\n{"a_score": 9, "b_score": 2, "explanation": "",}\n```'
    with JudgeServer([Mishap(text=text)]) as server:
        assert ask(server, tmp_path).scores == {"a_score": 9.0, "b_score": 2.0}


def test_a_refusal_is_an_answer(tmp_path):
    body = completion_body("x").replace('"content": "x"', '"content": null, "refusal": "I will not"')
    with JudgeServer(always=Mishap(body=body)) as server:
        answer = ask(server, tmp_path)
        assert (answer.status, answer.reason) == ("refused", "I will not")
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_bad_request_is_recorded_at_once_and_asked_again_at_the_next_start(tmp_path, status):
    with JudgeServer([Mishap(status, error_body("too many images"))]) as server:
        answer = ask(server, tmp_path)
        assert answer.status == "error"
        assert "too many images" in answer.reason
        assert len(server.requests) == 1
        assert ask(server, tmp_path).status == "ok"


@pytest.mark.parametrize(
    ("status", "words"), [(401, "environment variable OPENAI_API_KEY"), (403, "key"), (404, "check `model`")]
)
def test_a_wrong_key_or_model_stops_everything(tmp_path, status, words):
    with JudgeServer(always=Mishap(status, error_body("no"))) as server:
        with pytest.raises(JudgeStoppedError, match=words):
            ask(server, tmp_path)
        assert len(server.requests) == 1
    assert (tmp_path / "answers.jsonl").read_bytes() == b""


def test_an_endpoint_that_is_down_stops_everything_with_its_name(tmp_path):
    with JudgeServer() as server:
        pass
    with AnswerStore(tmp_path / "answers.jsonl") as store, ThreadPoolExecutor(4) as pool:
        judge = Judge(config_for(server, max_tries=100), store)
        futures = [pool.submit(judge.answer, replace(QUESTION, repeat=n), list) for n in range(8)]
        errors = [future.exception() for future in futures]
    assert {type(error) for error in errors} == {JudgeStoppedError}
    (message,) = {str(error) for error in errors}
    assert server.base_url in message
    assert "start the same command again" in message


def test_one_request_that_never_succeeds_does_not_stop_the_others(tmp_path):
    with JudgeServer([FAILURES["500"]] * 3) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        judge = Judge(config_for(server, max_tries=3), store)
        assert judge.answer(QUESTION, list).status == "error"
        assert judge.answer(replace(QUESTION, repeat=1), list).status == "ok"


def test_repeats_and_changes_are_questions_of_their_own(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 5)
    config = JudgeConfig(model="judge", base_url="http://a/v1")

    def question(path=clip, media=config.media, **changes):
        return replace(QUESTION, views=tuple(views_of([path, clip], media)), **changes)

    original = question().key(config)
    changed = write_clip(tmp_path / "changed.mp4", 6)
    smaller = MediaConfig(long_side=64)
    keys = {
        original,
        question(repeat=1).key(config),
        question(task="t/2").key(config),
        question(prompt="x").key(config),
        question(changed).key(config),
        question(media=smaller).key(config),
        question(media=MediaConfig(num_frames=2)).key(config),
        replace(question(), views=tuple(views_of([clip, changed], config.media))).key(config),
        question().key(replace(config, model="other")),
        question().key(replace(config, temperature=0.0)),
        question().key(replace(config, max_tokens=5)),
        question().key(replace(config, media=MediaConfig(jpeg_quality=50))),
    }
    assert len(keys) == 12
    elsewhere = replace(config, base_url="http://b/v1", concurrency=1, timeout=1.0)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    assert question(copy).key(elsewhere) == original


def test_addresses_stay_what_they_were_in_stores_of_earlier_releases():
    shown = View(Path("a.mp4"), "0" * 64, 96, 128, (Fraction(0), Fraction(1, 3)), num_frames=9, is_image=False)
    question = Question(task="t/1", prompt="p", views=(shown, shown), dimensions=("a",), repeat=1)
    key = question.key(JudgeConfig(model="m", base_url="http://a/v1"))
    assert key == "f1a7bda03ec73997944aeb5702d18e3f057b5f579e79a7111aa61469094993e5"


def test_the_way_of_asking_belongs_to_the_address():
    configs = [
        {},
        {"temperature": None},
        {"media": MediaConfig(prompt_first=True)},
        {"media": MediaConfig(kind="video_url")},
        {"media": MediaConfig(kind="video_in_image_url")},
        {"media": MediaConfig(kind="side_by_side")},
        {"media": MediaConfig(kind="side_by_side", short_side=256)},
    ]
    keys = {QUESTION.key(JudgeConfig(model="judge", base_url="http://a/v1", **config)) for config in configs}
    assert len(keys) == len(configs)


def test_a_prompt_may_come_first_and_sampling_may_be_the_endpoints(tmp_path):
    with JudgeServer() as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        config = config_for(server, temperature=None, media=MediaConfig(prompt_first=True))
        Judge(config, store).answer(QUESTION, lambda: [{"type": "text", "text": "shown"}])
    (request,) = server.requests
    assert [part["text"] for part in request["messages"][0]["content"]] == [QUESTION.prompt, "shown"]
    assert "temperature" not in request


def test_equal_questions_at_the_same_time_are_bought_once(tmp_path):
    barrier = threading.Barrier(6)
    with JudgeServer(delay=0.05) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        judge = Judge(config_for(server), store)

        def ask_together(_):
            barrier.wait()
            return judge.answer(QUESTION, list)

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask_together, range(6)))
        assert len(server.requests) == 1
    assert len({str(answer.scores) for answer in answers}) == 1


@pytest.mark.parametrize(
    "wrong", [{"base_url": "localhost:8000/v1"}, {"concurrency": 0}, {"max_tries": 0}, {"max_attempts": 0}]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(UserError, match="must"):
        JudgeConfig(**{"model": "judge", "base_url": "http://localhost:8000/v1", **wrong})


def test_without_the_client_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with JudgeServer() as server, pytest.raises(UserError, match=r"sama-video\[judge\]"):
        ask(server, tmp_path)
