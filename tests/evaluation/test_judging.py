"""Runs of the three judged benchmarks end to end against a real server: the same records however it is disturbed."""

import base64
import collections
import json
import os
import random
import re
from dataclasses import replace
from itertools import cycle, islice

import pytest

from sama_video.evaluation import judging
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.judging import (
    UNEQUAL_LENGTHS,
    JudgingConfig,
    judge_run,
    judgments_path,
    media_of,
    protocol_of,
    quote_judging,
)
from sama_video.evaluation.records import ITEMS, PREDICTIONS, RUN, Judgment, read_records, read_run
from sama_video.judge.clips import views_of
from sama_video.judge.questions import JudgeConfig
from sama_video.system.errors import UserError
from sama_video.system.journal import Journal
from tests.clips import write_clip
from tests.commands import sama
from tests.evaluation.copies import SIZE, write_copy, write_lazy_run
from tests.judge_server import JudgeServer, Mishap, completion_body, error_body, shown_of
from tests.kills import killed_often

JUDGED = ("reco_bench", "openve_bench", "vie_bench")


@pytest.fixture(scope="module", params=JUDGED)
def run(request, tmp_path_factory):
    """A run whose editor changed nothing."""
    folder = tmp_path_factory.mktemp(request.param)
    return write_lazy_run(request.param, write_copy(request.param, folder / "copy"), folder / "run")


@pytest.fixture(scope="module")
def reco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reco")
    return write_lazy_run("reco_bench", write_copy("reco_bench", folder / "copy"), folder / "run")


def anew(run, folder):
    """The run as it was before anybody judged it."""
    folder.mkdir(parents=True)
    for name in (RUN, ITEMS, PREDICTIONS):
        (folder / name).write_bytes((run / name).read_bytes())
    (folder / "videos").symlink_to(run / "videos")
    return folder


def config_for(run, server, *, prompts="own", repeats=None, kind=None, **changes):
    protocol = protocol_of(run)
    settings = {"base_delay": 0.001, "max_delay": 0.002, "concurrency": 3, "timeout": 5.0, **changes}
    judge = JudgeConfig(
        model="some/judge-1",
        base_url=server.base_url if server else "http://nobody.invalid/v1",
        temperature=protocol.temperature,
        max_tokens=protocol.max_tokens,
        media=media_of(protocol, kind=kind, num_frames=None, long_side=None),
        **settings,
    )
    return JudgingConfig(judge=judge, repeats=repeats or protocol.repeats, prompts=prompts)


def judged(run, server, **changes):
    report = judge_run(run, config_for(run, server, **changes))
    return list(read_records(report.path, Judgment))


def derived(run, name="some/judge-1"):
    path = judgments_path(run, name)
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


@pytest.fixture(scope="module")
def requests(run, tmp_path_factory):
    """Those of a run in which nothing went wrong, and its folder."""
    folder = anew(run, tmp_path_factory.mktemp("undisturbed") / "run")
    with JudgeServer() as server:
        judged(folder, server)
        assert set(server.sold.values()) == {1}
    return server.requests, folder


@pytest.fixture(scope="module")
def undisturbed(requests):
    return requests[1]


def test_every_item_has_a_judgment_for_every_repeat(run, undisturbed):
    info, items = read_run(run)
    benchmark = find_benchmark(info.benchmark)
    judgments = list(read_records(judgments_path(undisturbed, "some/judge-1"), Judgment))
    repeats = range(benchmark.protocol.repeats)
    assert [(one.item, one.repeat) for one in judgments] == sorted((item.id, n) for item in items for n in repeats)
    tasks = {item.id: benchmark.task(item.task) for item in items}
    low, high = benchmark.scale
    for one in judgments:
        if one.status == "ok":
            dimensions = [name for block in tasks[one.item].blocks for name in block.dimensions]
            assert list(one.scores) == sorted(dimensions)
            assert all(low <= score <= high for score in one.scores.values())
    missing = [one for one in judgments if one.status == "missing"]
    assert {one.reason for one in missing} == {"there is no prediction", "the editor failed: out of memory"}
    assert all(one.scores is None for one in missing)
    assert len(missing) == 2 * len(repeats)


def test_the_protocol_is_the_authors(run, requests):
    benchmark = find_benchmark(read_run(run)[0].benchmark)
    for request in requests[0]:
        kinds = [part["type"] for part in request["messages"][0]["content"]]
        urls = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
        assert request.get("temperature") == benchmark.protocol.temperature
        assert request["max_tokens"] == benchmark.protocol.max_tokens
        if benchmark.name == "reco_bench":
            # Clips of 9 or 10 frames show the frames 0 and 8.
            assert kinds == ["image_url", "image_url", "text"]
            assert "temperature" not in request
        elif benchmark.name == "openve_bench":
            assert kinds == ["text", "text", "image_url", "text", "image_url"]
            assert all(url.startswith("data:video/mp4;base64,") for url in urls)
        else:
            assert kinds[-1] == "text"
            assert len(urls) == 16


def test_prompts_hold_the_instruction_and_nothing_to_fill_in(run, tmp_path):
    folder = anew(run, tmp_path / "run")
    with JudgeServer() as server:
        judged(folder, server, repeats=1, kind="frames")
    prompts = [request["messages"][0]["content"][-1]["text"] for request in server.requests]
    predicted = [item for item in read_run(run)[1] if any(item.instruction in prompt for prompt in prompts)]
    assert len(predicted) >= len(prompts) > 0
    for prompt in prompts:
        assert "{instruction}" not in prompt
        assert "{shown}" not in prompt
        assert "frames of two videos" in prompt


MISHAPS = [
    Mishap(500, error_body("boom")),
    None,
    Mishap(429, error_body("busy"), headers=(("Retry-After", "0"),)),
    Mishap(text="I would say nine."),
    Mishap(closes=True),
    None,
    Mishap(200, completion_body("{}")[:40]),
    Mishap(text='{"score": 10}'),
    Mishap(text='{"edit_accuracy": {"scores": [9, 9], "reasoning": ""}}'),
    Mishap(200, "<html></html>", headers=(("Content-Type", "text/html"),)),
    Mishap(text='{"compliance": 9, "fidelity": 1, "quality": 1, "explanation": ""}'),
]


def test_disturbances_change_no_byte_and_buy_nothing_twice(run, undisturbed, tmp_path):
    folder = anew(run, tmp_path / "run")
    schedule = random.Random(0).sample(MISHAPS, len(MISHAPS))
    with JudgeServer([*islice(cycle(schedule), 30), Mishap(delay=5.0)]) as server:
        changes = {"timeout": 3.0, "max_attempts": 20, "max_tries": 20}
        judged(folder, server, **changes)
        assert set(server.sold.values()) == {1}
        asked = len(server.requests)
        judged(folder, server, **changes)
        assert len(server.requests) == asked
    assert derived(folder) == derived(undisturbed)


def test_failures_are_data_and_errors_are_asked_again(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    with JudgeServer(always=Mishap(text="9/10!")) as server:
        statuses = collections.Counter(one.status for one in judged(folder, server))
    assert statuses == {"parse_failed": 4, "missing": 2}
    folder = anew(reco, tmp_path / "other")
    with JudgeServer(always=Mishap(400, error_body("too many images"))) as server:
        report = judge_run(folder, config_for(folder, server))
        assert report.unanswered == 4
        server.then = None
        assert judge_run(folder, config_for(folder, server)).statuses == {"missing": 2, "ok": 4}


def test_nine_zeros_are_an_unchanged_video_and_one_zero_is_no_score(reco, tmp_path):
    def answer(*first):
        block = {"scores": [0, 0, 0], "reasoning": ""}
        blocks = {"edit_accuracy": {**block, "scores": first}, "naturalness": block, "video_quality": block}
        return Mishap(text=json.dumps(blocks))

    folder = anew(reco, tmp_path / "zeros")
    with JudgeServer(always=answer(0, 0, 0)) as server:
        scores = [one.scores for one in judged(folder, server) if one.status == "ok"]
    assert len(scores) == 4
    assert all(set(one.values()) == {0} and len(one) == 9 for one in scores)
    folder = anew(reco, tmp_path / "mixed")
    with JudgeServer(always=answer(0, 5, 5)) as server:
        assert not [one for one in judged(folder, server) if one.status == "ok"]


def test_clips_of_other_length_are_judged_and_noted(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    (folder / "videos").unlink()
    for line in map(json.loads, (folder / PREDICTIONS).read_text().splitlines()):
        if line["file"]:
            (folder / line["file"]).parent.mkdir(parents=True, exist_ok=True)
            write_clip(folder / line["file"], 20, **SIZE)
    with JudgeServer() as server:
        noted = [one.reason for one in judged(folder, server) if one.status == "ok"]
    assert all(reason.startswith(UNEQUAL_LENGTHS) for reason in noted)
    assert f"{UNEQUAL_LENGTHS}: 9 and 20 frames" in noted


def test_an_edit_that_cannot_be_read_is_missing_wherever_the_run_lies(reco, tmp_path):
    records = []
    for name in ("one", "two"):
        folder = anew(reco, tmp_path / name)
        (folder / "videos").unlink()
        with JudgeServer() as server:
            records.append(judged(folder, server))
            assert server.requests == []
    assert records[0] == records[1]
    assert all(one.status == "missing" for one in records[0])
    assert sum("no such video: videos/" in one.reason for one in records[0]) == 4


def authors_block(key):
    return f'"{key}": {{"scores": [<1 to 10>, <1 to 10>, <1 to 10>], "reasoning": "<>"}}'


RECO_BLOCKS = ",\n".join(map(authors_block, ("edit_accuracy", "video_quality", "naturalness")))
OPENVE_TEXT = """
Rate: 1. bad
Brief reasoning: 20 words.
Compliance: A number from 1 to 5.
Quality & Co: A number from 1 to 5.
Detail: A number from 1 to 5.
editing instruction is : <edit_prompt>.

Below are the videos:
"""
OFFICIAL, FORK = find_benchmark("openve_bench").authors
# The other project's lines have names of their own, in an order that differs from task to task.
FORK_TEXT = """
Rate {edit_prompt}!
Instruction Compliance: 1-5.
Consistency & Detail Fidelity: 1-5.
Visual Quality & Stability: 1-5.
"""


def python_file(prompts, text):
    return " # Copyright\nimport torch\n" + "".join(f'{name} = """{text}"""\n' for name in prompts.constants.values())


AUTHORS = {
    "reco_bench": (
        "eval_step1_run_gemini_api.py",
        f'import os\nbenchmark_score_eval_sys_prompt = """Judge.\n{{{RECO_BLOCKS}\n}}\n"""\n',
    ),
    "openve_bench": ("gemini_benchmark.py", python_file(OFFICIAL, OPENVE_TEXT)),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_prompts_are_read_from_the_copy_and_make_another_judge(name, tmp_path):
    copy = write_copy(name, tmp_path / "copy")
    run = write_lazy_run(name, copy, tmp_path / "run")
    with JudgeServer() as server, pytest.raises(UserError, match="`prompts` own"):
        judged(run, server, prompts="copy")
    file, text = AUTHORS[name]
    (copy / file).write_text(text)
    with JudgeServer() as server:
        own, authors = judged(run, server), judged(run, server, prompts="copy")
        prompts = [part["text"] for part in shown_of(server.requests[-1]) if part["type"] == "text"]
    assert {one.status for one in authors} == {"ok", "missing"}
    assert {one.judge for one in authors} == {"some/judge-1 (authors' prompts)"}
    assert [one.item for one in authors] == [one.item for one in own]
    assert len(list(run.glob("judgments-*.jsonl"))) == 2
    assert "instruction" in max(prompts, key=len)
    (copy / file).write_text("import os\n")
    with pytest.raises(UserError, match="names no text"):
        quote_judging(run, config_for(run, None, prompts="copy"))


@pytest.fixture
def openve(tmp_path):
    copy = write_copy("openve_bench", tmp_path / "copy")
    return copy, write_lazy_run("openve_bench", copy, tmp_path / "run")


def test_openves_authors_ask_as_their_script_does(openve):
    copy, run = openve
    (copy / "gemini_benchmark.py").write_text(python_file(OFFICIAL, OPENVE_TEXT))
    with JudgeServer() as server:
        judged(run, server, prompts="copy")
    items = {item.task: item for item in read_run(run)[1]}
    asked = {request["messages"][1]["content"][0]["text"]: request for request in server.requests}
    request = asked[OPENVE_TEXT.replace("<edit_prompt>", items["local_change"].instruction).strip()]
    system, user = request["messages"]
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    assert user["role"] == "user"
    source, edit = (
        base64.b64encode(path.read_bytes()).decode()
        for path in (items["local_change"].source, run / "videos/local_change" / items["local_change"].file_name)
    )
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "image_url"]
    assert [part["image_url"]["url"] for part in user["content"][1:]] == [
        f"data:video/mp4;base64,{content}" for content in (source, edit)
    ]
    assert (request["temperature"], request["max_tokens"]) == (0.7, 8192)


LINES_OF = "Brief reasoning: fine\n{}: 5\n{}: 4\n{}: 3\n"


def test_openves_second_line_is_quality_but_for_style(openve):
    copy, run = openve
    (copy / "gemini_benchmark.py").write_text(python_file(OFFICIAL, OPENVE_TEXT))
    answer = Mishap(text=LINES_OF.format("Compliance", "Quality & Co", "Detail"))
    with JudgeServer(always=answer) as server:
        scores = {one.item.partition("/")[0]: one.scores for one in judged(run, server, prompts="copy") if one.scores}
    assert scores.pop("global_style") == {"compliance": 5, "fidelity": 4, "quality": 3}
    assert len(scores) >= 5
    assert all(one == {"compliance": 5, "quality": 4, "fidelity": 3} for one in scores.values())


def test_another_projects_variant_goes_by_its_own_name_and_order(openve):
    copy, run = openve
    (copy / "eval_openve_gemini.py").write_text(python_file(FORK, FORK_TEXT))
    lines = ("Instruction Compliance", "Consistency & Detail Fidelity", "Visual Quality & Stability")
    with JudgeServer(always=Mishap(text=LINES_OF.format(*lines))) as server:
        judgments = judged(run, server, prompts="copy")
    assert {one.judge for one in judgments} == {"some/judge-1 (Kiwi-Edit's prompts)"}
    assert all(one.scores == {"compliance": 5, "fidelity": 4, "quality": 3} for one in judgments if one.scores)
    system, user = server.requests[0]["messages"]
    assert system["role"] == "system"
    assert re.fullmatch(r"\nRate Do \"\w+\", please!\n.*", system["content"], re.DOTALL)
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url"]
    # Both files there: the authors' own comes first.
    (copy / "gemini_benchmark.py").write_text(python_file(OFFICIAL, OPENVE_TEXT))
    with JudgeServer() as server:
        assert {one.judge for one in judged(run, server, prompts="copy")} == {"some/judge-1 (authors' prompts)"}


def test_the_variants_texts_under_the_official_name_are_not_the_authors(openve):
    copy, run = openve
    (copy / "gemini_benchmark.py").write_text(python_file(FORK, FORK_TEXT))
    with pytest.raises(UserError, match="names no text Background_Change"):
        quote_judging(run, config_for(run, None, prompts="copy"))


def test_an_edit_of_another_height_is_noted_with_whatever_else_is_wrong(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    (folder / "videos").unlink()
    for line in map(json.loads, (folder / PREDICTIONS).read_text().splitlines()):
        if line["file"]:
            (folder / line["file"]).parent.mkdir(parents=True, exist_ok=True)
            write_clip(folder / line["file"], 20, height=64, width=48)
    with JudgeServer(always=Mishap(text="no")) as server:
        reasons = {one.reason for one in judged(folder, server) if one.status == "parse_failed"}
    assert "unequal lengths: 9 and 20 frames; unequal heights: 32 and 64 pixels; no JSON object" in reasons


def test_what_the_first_attempt_said_is_kept_for_the_authors_way_of_counting(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    with JudgeServer([Mishap(text="first"), Mishap(text="second")]) as server:
        judged(folder, server, concurrency=1)
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [answer["earlier"] for answer in answers] == [["first", "second"], [], [], []]


def test_judges_whose_names_would_share_a_file_do_not(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    names = ("some/judge", "some-judge", "x" * 300)
    for name in names:
        with JudgeServer() as server:
            config = config_for(folder, server)
            report = judge_run(folder, replace(config, judge=replace(config.judge, model=name)))
        assert {one.judge for one in read_records(report.path, Judgment)} == {name}
    assert len(list(folder.glob("judgments-*.jsonl"))) == len(names)
    assert judgments_path(folder, "some/judge").name == "judgments-some-judge.jsonl"


def test_what_nobody_foresaw_about_one_item_does_not_stop_the_others(reco, tmp_path, monkeypatch):
    folder = anew(reco, tmp_path / "run")

    def looking(paths, config):
        if "1-hd_25fps" in str(paths[0]):
            raise ZeroDivisionError("no frames")
        return views_of(paths, config)

    monkeypatch.setattr(judging, "views_of", looking)
    with JudgeServer() as server:
        judgments = judged(folder, server)
    assert "ZeroDivisionError: no frames" in {one.reason for one in judgments}
    assert "ok" in {one.status for one in judgments}


def test_a_full_disk_stops_the_questions(reco, tmp_path, monkeypatch):
    folder = anew(reco, tmp_path / "run")

    def append(*_):
        raise UserError("cannot write to answers.jsonl (No space left on device)")

    monkeypatch.setattr(Journal, "append", append)
    with JudgeServer() as server, pytest.raises(UserError, match="No space left"):
        judged(folder, server, concurrency=1)
    assert len(server.requests) == 1


def test_authors_prompts_that_ask_for_other_scores_are_refused(tmp_path):
    copy = write_copy("openve_bench", tmp_path / "copy")
    run = write_lazy_run("openve_bench", copy, tmp_path / "run")
    file, text = AUTHORS["openve_bench"]
    (copy / file).write_text(text.replace("Detail: A number from 1 to 5.\n", ""))
    with pytest.raises(UserError, match="other scores of global_style"):
        quote_judging(run, config_for(run, None, prompts="copy"))


def test_vies_authors_have_no_prompts(tmp_path):
    run = write_lazy_run("vie_bench", write_copy("vie_bench", tmp_path / "copy"), tmp_path / "run")
    with pytest.raises(UserError, match="published no prompts"):
        quote_judging(run, config_for(run, None, prompts="copy"))


def test_a_plan_asks_nothing_and_counts_down_to_nothing(run, undisturbed, tmp_path):
    folder = anew(run, tmp_path / "run")
    config = config_for(run, None)
    before = quote_judging(folder, config)
    after = quote_judging(undisturbed, config)
    assert before.pairs["unreadable"] == 2
    assert before.answered == after.to_ask == after.input_tokens == 0
    assert before.to_ask == after.answered > 0
    assert (before.input_tokens is None) == (config.judge.media.kind == "video_in_image_url")
    assert not (folder / "answers.jsonl").exists()


def test_runs_that_cannot_be_judged_are_refused(tmp_path):
    copy = write_copy("five_bench", tmp_path / "copy")
    run = write_lazy_run("five_bench", copy, tmp_path / "run")
    with pytest.raises(UserError, match="sama eval exact"):
        protocol_of(run)
    other = write_lazy_run("vie_bench", write_copy("vie_bench", tmp_path / "vie"), tmp_path / "vie_run")
    info = json.loads((other / RUN).read_text())
    (other / RUN).write_text(json.dumps({**info, "version": "0"}))
    with pytest.raises(UserError, match="version 0"):
        protocol_of(other)
    (other / RUN).write_text(json.dumps({**info, "benchmark": "manifest", "version": ""}))
    with pytest.raises(UserError, match=r"a manifest's pairs .* 'sama eval exact' scores them"):
        protocol_of(other)


def command(run, server, *more):
    options = ["--model", "some/judge-1", "--base-url", server.base_url, "--concurrency", "3", *map(str, more)]
    return ["eval", "judge", run, *options]


def test_the_command_plans_judges_and_says_what_is_wrong(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    with JudgeServer() as server:
        dry = sama(*command(folder, server, "--dry-run"))
        assert dry.returncode == 0
        assert "0 answered already, 4 to ask" in dry.stdout
        assert server.requests == []
        done = sama(*command(folder, server))
        assert done.returncode == 0
        assert "2 missing, 4 ok" in done.stdout
        wrong = sama(*command(tmp_path, server))
    assert wrong.returncode == 2
    assert "sama eval predict" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_command_shows_and_writes_no_key_and_no_password(reco, tmp_path):
    folder = anew(reco, tmp_path / "run")
    key, password = "sk-MARKER-key", "MARKER-password"

    def echo(headers):
        return completion_body(f"{dict(headers)} {key} {password}")

    with JudgeServer([Mishap(500, echoes=lambda headers: str(dict(headers)))], always=Mishap(echoes=echo)) as server:
        place = server.base_url.replace("http://", f"http://someone:{password}@")
        judge = [*command(folder, server), "--base-url", f"{place}?key={key}", "--api-key-env", "SOME_KEY"]
        done = sama(*judge, env={**os.environ, "SOME_KEY": key})
        assert done.returncode == 0
        assert "4 parse_failed" in done.stdout
        assert "***" in (folder / "answers.jsonl").read_text()
        server.then = Mishap(401, echoes=lambda headers: f"{dict(headers)} {key}")
        (folder / "answers.jsonl").unlink()
        stopped = sama(*judge, env={**os.environ, "SOME_KEY": key})
    assert stopped.returncode == 2
    assert f"http://***@127.0.0.1:{server.base_url.rpartition(':')[2]}" in stopped.stderr
    basic = base64.b64encode(f"someone:{password}".encode()).decode()
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4"]
    texts = [done.stdout, done.stderr, stopped.stdout, stopped.stderr, *(path.read_text() for path in files)]
    assert len(files) > 5
    assert not [text for text in texts if "MARKER" in text or basic in text]


def killed_and_quiet(run, tmp_path, kills, repeats):
    killed, quiet = anew(run, tmp_path / "killed"), anew(run, tmp_path / "quiet")
    server = killed_often(
        lambda server: command(killed, server, "--repeats", repeats), killed / "answers.jsonl", kills, 3, 0.02
    )
    # Bought twice is at most what was in flight at a kill.
    assert server.sold.total() - len(server.sold) <= 3 * kills
    with JudgeServer() as other:
        judged(quiet, other, repeats=repeats)
    assert derived(killed) == derived(quiet)


@pytest.mark.slow
def test_a_run_killed_five_times_ends_in_the_same_records(reco, tmp_path):
    killed_and_quiet(reco, tmp_path, kills=5, repeats=8)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_in_the_same_records(run, tmp_path):
    killed_and_quiet(run, tmp_path, kills=20, repeats=40)
