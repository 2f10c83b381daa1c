"""Keys and passwords leave the process only towards their endpoint, whatever a server or a library says of them."""

import base64
import html
import json
import logging
from dataclasses import replace
from urllib.parse import quote

import pytest

from sama_video.judge.answers import AnswerStore
from sama_video.judge.client import Judge, JudgeStoppedError
from sama_video.judge.endpoint import endpoint_of
from sama_video.judge.questions import JudgeConfig
from sama_video.judge.redact import MASK, redactor_of, secrets_in
from sama_video.system.errors import UserError
from tests.judge.test_client import QUESTION
from tests.judge_server import JudgeServer, Mishap, completion_body, error_body

KEY = "sk-MARKER/key+of=ours"
PASSWORD = "MARKER&pass<word>"
QUERY = "MARKER-query-key"
BASIC = base64.b64encode(f"someone:{PASSWORD}".encode()).decode()
FORMS = (
    *(form for secret in (KEY, PASSWORD, QUERY) for form in (secret, quote(secret, safe=""), quote(secret))),
    *(base64.b64encode(secret.encode()).decode().rstrip("=") for secret in (KEY, PASSWORD)),
    BASIC,
    html.escape(PASSWORD),
)
MARKERS = {*FORMS, "MARKER", *(form.upper() for form in FORMS)}


def headers_of(headers):
    return json.dumps(dict(headers)) + " ".join(FORMS) + KEY.upper()


def in_a_completion(headers):
    return completion_body(f'{headers_of(headers)} {{"a_score": 9}}')


ECHOES = {
    "in an answer": Mishap(echoes=in_a_completion),
    "in a refusal": Mishap(
        echoes=lambda headers: completion_body(None).replace(
            '"content": null', f'"content": null, "refusal": {json.dumps(headers_of(headers))}'
        )
    ),
    "in a body that is none": Mishap(echoes=lambda headers: f"<html>{html.escape(headers_of(headers))}"),
    "in an error": Mishap(400, echoes=lambda headers: error_body(headers_of(headers))),
    "in an error that may pass": Mishap(500, echoes=headers_of),
    "of a wrong key": Mishap(401, echoes=lambda headers: error_body(headers_of(headers))),
    "of a wrong model": Mishap(404, echoes=headers_of),
    "in a redirection": Mishap(307, headers=(("Location", f"http://{QUERY}:{KEY}@else.where/?{QUERY}"),)),
    "in what is no HTTP": Mishap(wire=lambda: [f"{KEY} {PASSWORD}\r\n\r\n".encode()]),
    "in a header that is too long": Mishap(wire=lambda: [f"HTTP/1.1 200 {KEY}\r\nX: {KEY * 9999}".encode()]),
    "hanging up": Mishap(closes=True),
}


def with_secrets(server, monkeypatch, **changes):
    monkeypatch.setenv("SOME_KEY", KEY)
    host = server.base_url.removeprefix("http://")
    return JudgeConfig(
        model="judge",
        base_url=f"http://someone:{quote(PASSWORD, safe='')}@{host}?api_key={QUERY}",
        api_key_env="SOME_KEY",
        **{"base_delay": 0.001, "max_delay": 0.002, "timeout": 5.0, "concurrency": 2, "max_tries": 2, **changes},
    )


def assert_clean(*texts):
    for text in texts:
        assert not [marker for marker in MARKERS if marker.lower() in text.lower()], text


@pytest.mark.parametrize("mishap", ECHOES.values(), ids=ECHOES)
def test_an_echo_reaches_no_record_no_log_and_no_message(tmp_path, monkeypatch, caplog, capfd, mishap):
    caplog.set_level(logging.DEBUG)
    messages = []
    with JudgeServer(always=mishap) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        judge = Judge(with_secrets(server, monkeypatch), store)
        for repeat in range(2):
            try:
                judge.answer(replace(QUESTION, repeat=repeat), list)
            except JudgeStoppedError as error:
                messages += [str(error), repr(error.__cause__)]
        assert server.requests
    printed = capfd.readouterr()
    written = (tmp_path / "answers.jsonl").read_text()
    assert caplog.text
    assert_clean(written, caplog.text, printed.out, printed.err, *messages)


def test_the_endpoint_gets_its_secrets(tmp_path, monkeypatch):
    seen = []

    def note(headers):
        seen.append(dict(headers))
        return completion_body('{"a_score": 9, "b_score": 2, "explanation": ""}')

    with JudgeServer(always=Mishap(echoes=note)) as server, AnswerStore(tmp_path / "answers.jsonl") as store:
        assert Judge(with_secrets(server, monkeypatch), store).answer(QUESTION, list).status == "ok"
        assert server.paths == [f"/v1/chat/completions?api_key={QUERY}"]
        config = replace(with_secrets(server, monkeypatch), base_url=server.base_url)
        assert Judge(config, store).answer(replace(QUESTION, repeat=1), list).status == "ok"
    assert [headers["authorization"] for headers in seen] == [f"Basic {BASIC}", f"Bearer {KEY}"]


def test_an_endpoint_that_is_down_is_named_without_its_password(tmp_path, monkeypatch):
    with JudgeServer() as server:
        pass
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        judge = Judge(with_secrets(server, monkeypatch, max_tries=50, concurrency=1), store)
        with pytest.raises(JudgeStoppedError) as stopped:
            judge.answer(QUESTION, list)
    assert_clean(str(stopped.value), repr(judge.config), repr(endpoint_of(judge.config.base_url)))
    assert f"http://{MASK}@127.0.0.1" in str(stopped.value)


@pytest.mark.parametrize(
    "base_url",
    [
        f"ftp://someone:{QUERY}@host/v1",
        f"someone:{QUERY}@host/v1",
        f"host/v1?key={QUERY}",
        f"http://someone:{QUERY}@/v1",
        f"http://someone:{QUERY}@host:port/v1",
        f"http://someone:{QUERY}@host:99999999/v1",
        f"http://someone:{QUERY}@[::1/v1",
        f"http://someone:{QUERY}/with@host/v1",
        f"http://someone:{QUERY}@ho st/v1",
        f"http://someone:{QUERY}@host\\v1\n",
    ],
)
def test_an_address_that_is_none_is_refused_without_being_repeated(base_url):
    with pytest.raises(UserError) as refused:
        JudgeConfig(model="judge", base_url=base_url)
    assert_clean(str(refused.value))


def test_a_key_in_the_place_of_its_name_is_not_repeated():
    with pytest.raises(UserError, match="not the key") as refused:
        JudgeConfig(model="judge", base_url="http://host/v1", api_key_env=KEY)
    assert_clean(str(refused.value))


@pytest.mark.parametrize("key", ["MARKER key", "MARKER\nkey", "MARKER-ключ", " MARKER "])
def test_a_key_that_no_header_holds_is_refused(tmp_path, monkeypatch, key):
    monkeypatch.setenv("SOME_KEY", key)
    config = JudgeConfig(model="judge", base_url="http://host/v1", api_key_env="SOME_KEY")
    with AnswerStore(tmp_path / "a.jsonl") as store, pytest.raises(UserError, match="SOME_KEY holds") as refused:
        Judge(config, store)
    assert_clean(str(refused.value))


def test_short_keys_of_servers_without_any_stay_in_texts():
    redact = redactor_of(["none", "EMPTY", ""])
    assert redact("none of it is EMPTY") == "none of it is EMPTY"
    assert redactor_of(["secret-1"])("a secret-1, SECRET-1") == f"a {MASK}, {MASK}"


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("edit --api-key sk-MARKER-1 --in {source}", f"edit --api-key {MASK} --in {{source}}"),
        ("edit --token=MARKER-1 -o {output}", f"edit --token={MASK} -o {{output}}"),
        ("env OPENAI_API_KEY='MARKER-1' edit {source}", f"env OPENAI_API_KEY='{MASK}' edit {{source}}"),
        ('curl -H "Authorization: Bearer MARKER-1" {source}', f'curl -H "Authorization: Bearer {MASK}" {{source}}'),
        (
            "edit --url https://me:MARKER-1@host/v1?key=MARKER-2&n=1",
            f"edit --url https://{MASK}@host/v1?key={MASK}&n=1",
        ),
        ("edit -k MARKER-in-a-variable {source}", f"edit -k {MASK} {{source}}"),
    ],
)
def test_a_command_line_is_written_without_its_secrets(monkeypatch, command, written):
    monkeypatch.setenv("SOME_EDITORS_KEY", "MARKER-in-a-variable")
    assert redactor_of(secrets_in(command))(command) == written


@pytest.mark.parametrize(
    "command",
    [
        "myedit --in {source} --text {instruction} --key {reference} --out {output}",
        "x --max-tokens 1024 --keyframes 81920",
    ],
)
def test_a_command_line_without_secrets_stays_as_it_is(command):
    assert secrets_in(command) == set()
