"""The filter end to end against a real server: the same files however it is disturbed, and nothing bought twice."""

import json
import random
import sys
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import PIL.Image
import pytest

from sama_video.curation.curate import curate, quote
from sama_video.curation.histogram import draw_histograms
from sama_video.data.manifest import read_manifest
from sama_video.judge.answers import read_answers
from sama_video.judge.clips import MediaConfig, views_of
from sama_video.system.errors import UserError
from tests.commands import sama
from tests.curation.pairs import DERIVED, derived_files, quick_config, write_pairs
from tests.judge_server import JudgeServer, Mishap, completion_body, error_body
from tests.kills import killed_often

QUESTIONS = 3 * 9 + 2 * 6


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def undisturbed(manifest, tmp_path_factory):
    """The folder of a run in which nothing went wrong."""
    out = tmp_path_factory.mktemp("undisturbed")
    with JudgeServer() as server:
        curate(read_manifest(manifest), out, quick_config(server.base_url))
        assert len(server.requests) == QUESTIONS
        assert server.most_at_once <= 3
    return out


def test_every_pair_is_kept_or_rejected_with_reasons(manifest, undisturbed):
    kept, rejected = (read_manifest(undisturbed / f"{name}.csv") for name in ("kept", "rejected"))
    rows = {row.id: row for row in read_manifest(manifest)}
    assert {row.id for row in kept} | {row.id for row in rejected} == set(rows)
    assert len(kept) + len(rejected) == len(rows)
    for row in kept:
        assert row == rows[row.id]
    for row in rejected:
        assert row.extra["reasons"]
        assert row.src_video == rows[row.id].src_video
    lines = [json.loads(line) for line in (undisturbed / "scores.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(rows)
    for line in lines:
        for score, average in line["averages"].items():
            assert average == pytest.approx(sum(line["turns"][score]) / 3, abs=1e-4)
    assert lines[-1]["unreadable"].startswith(f"{rows['broken'].src_video} is not a video")


def test_the_report_counts_what_the_lists_hold(undisturbed):
    report = json.loads((undisturbed / "report.json").read_text())
    counts = report["counts"]
    assert {kind: count["pairs"] for kind, count in counts.items()} == {"image": 2, "video": 3, "unreadable": 1}
    assert sum(count["kept"] for count in counts.values()) == len(read_manifest(undisturbed / "kept.csv"))
    assert counts["unreadable"]["rejected"] == {"unreadable": 1}
    assert report["settings"]["turns"] == 3
    assert report["settings"]["media"]["num_frames"] == 2
    assert "base_url" not in json.dumps(report)


def test_the_judge_sees_each_prompts_order(manifest, tmp_path):
    with JudgeServer() as server:
        curate(read_manifest(manifest)[:1], tmp_path, quick_config(server.base_url))
    firsts = {}
    for request in server.requests:
        *media, prompt = request["messages"][0]["content"]
        firsts.setdefault(prompt["text"], []).append(next(part for part in media if part["type"] == "image_url"))
    (quality,), (motion,), (content,) = (
        {json.dumps(part) for part in parts} for parts in firsts.values()
    )  # three turns show the same
    assert quality == content != motion
    assert all("{edit} 0" in prompt for prompt in firsts)


MISHAPS = [
    Mishap(500, error_body("boom")),
    None,
    Mishap(429, error_body("busy"), headers=(("Retry-After", "0"),)),
    Mishap(text="I would say nine."),
    Mishap(closes=True),
    None,
    Mishap(200, completion_body("{}")[:40]),
    Mishap(text='{"score": 10}'),
    Mishap(200, "<html></html>", headers=(("Content-Type", "text/html"),)),
    None,
    None,
    Mishap(text='{"instruction_following_score": 99, "visual_quality_score": 9, "explanation": ""}'),
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_disturbances_change_no_byte_and_buy_nothing_twice(manifest, undisturbed, tmp_path, seed):
    schedule = random.Random(seed).sample(MISHAPS, len(MISHAPS))
    with JudgeServer([*islice(cycle(schedule), 40), Mishap(delay=5.0)]) as server:
        config = quick_config(server.base_url, timeout=3.0, max_attempts=20, max_tries=20)
        curate(read_manifest(manifest), tmp_path, config)
        assert set(server.sold.values()) == {1}
        assert len(server.sold) == QUESTIONS
        asked = len(server.requests)
        curate(read_manifest(manifest), tmp_path, config)
        assert len(server.requests) == asked
    files, expected = derived_files(tmp_path), derived_files(undisturbed)
    for name in DERIVED:
        changed = files[name].replace(b'"max_attempts": 20', b'"max_attempts": 3')
        assert changed == expected[name], name


def test_answers_of_the_same_questions_serve_other_thresholds_and_orders(manifest, undisturbed, tmp_path):
    (tmp_path / "answers.jsonl").write_bytes((undisturbed / "answers.jsonl").read_bytes())
    config = quick_config("http://nobody.invalid/v1")
    backwards = list(reversed(read_manifest(manifest)))
    report = curate(backwards, tmp_path, config.with_thresholds(["video.visual_quality=1", "image.visual_quality=1"]))
    assert report.kept >= len(read_manifest(undisturbed / "kept.csv"))
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["id"] == "broken"


def test_an_endpoint_that_goes_down_keeps_what_it_answered(manifest, undisturbed, tmp_path):
    down = Mishap(503, error_body("loading"))
    with JudgeServer([None] * 10 + [down] * 1000) as server, pytest.raises(UserError, match="start the same command"):
        curate(read_manifest(manifest), tmp_path, quick_config(server.base_url))
    assert not (tmp_path / "kept.csv").exists()
    with JudgeServer() as server:
        curate(read_manifest(manifest), tmp_path, quick_config(server.base_url))
        assert len(server.requests) == QUESTIONS - 10
    assert derived_files(tmp_path) == derived_files(undisturbed)


def test_a_judge_that_never_makes_sense_rejects_and_makes_nothing_up(manifest, tmp_path):
    with JudgeServer(always=Mishap(text="9/10!")) as server:
        report = curate(read_manifest(manifest), tmp_path, quick_config(server.base_url))
    assert report.kept == 0
    assert report.counts["video"].rejected == {"judge failed": 3}
    assert report.counts["video"].failed_turns == {"parse_failed": 27}
    assert all(answer.scores is None for answer in read_answers(tmp_path / "answers.jsonl").values())


def test_what_nobody_foresaw_about_one_pair_does_not_stop_the_others(manifest, tmp_path, monkeypatch):
    def looking(paths, config):
        if paths[0].name == "1.mp4":
            raise ZeroDivisionError("no frames")
        return views_of(paths, config)

    monkeypatch.setattr("sama_video.curation.score.views_of", looking)
    with JudgeServer() as server:
        report = curate(read_manifest(manifest), tmp_path, quick_config(server.base_url))
    assert {kind: count.pairs for kind, count in report.counts.items()} == {"image": 2, "unreadable": 2, "video": 2}
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert lines[1]["unreadable"] == "ZeroDivisionError: no frames"


def test_hostile_answers_and_names_leave_files_that_any_program_can_open(tmp_path):
    manifest = write_pairs(tmp_path, videos=2, images=0)
    rows = read_manifest(manifest)[:2]
    answers = [
        Mishap(text="\ud800"),
        Mishap(text=f'{{"visual_quality_score": {"9" * 5000}}}'),
        Mishap(text='{"a":' * 10_000),
        Mishap(body=completion_body("9", usage=[7])),
    ]
    model = "```\n<script>alert(1)</script>"
    with JudgeServer(cycle(answers)) as server:
        config = quick_config(server.base_url, max_attempts=1)
        config = replace(config, judge=replace(config.judge, model=model))
        report = curate(rows, tmp_path / "out", config)
    assert report.counts["video"].failed_turns == {"parse_failed": 18}
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    fence = text[text.index("```json") : text.index("\n```\n")]
    assert "<script>" in fence
    assert "<script>" not in text.replace(fence, "")
    assert [json.loads(line)["id"] for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()] == [
        row.id for row in rows
    ]


def test_a_plan_asks_nothing_and_counts_down_to_nothing(manifest, undisturbed, tmp_path):
    rows, config = read_manifest(manifest), quick_config("http://nobody.invalid/v1")
    before = quote(rows, tmp_path / "new", config)
    assert before.pairs == {"image": 2, "video": 3, "unreadable": 1}
    assert (before.answered, before.to_ask) == (0, QUESTIONS)
    assert before.cost(1.0, 0.0) == before.input_tokens / 1e6
    assert before.seconds(3, 2.0) == QUESTIONS * 2 / 3
    assert not (tmp_path / "new").exists()
    after = quote(rows, undisturbed, config)
    assert (after.answered, after.to_ask, after.input_tokens) == (QUESTIONS, 0, 0)
    more = quote(rows, undisturbed, quick_config("http://nobody.invalid/v1", turns=4))
    assert (more.answered, more.to_ask) == (QUESTIONS, QUESTIONS // 3)


def test_prompts_about_two_videos_are_not_asked_of_joined_frames():
    with pytest.raises(UserError, match="`media` frames"):
        quick_config("http://nobody.invalid/v1", media=MediaConfig(kind="side_by_side"))


def test_the_histogram_shows_a_panel_for_each_score(undisturbed):
    image = np.array(PIL.Image.open(undisturbed / "histogram.png").convert("RGB"))
    panels = image.reshape(2, image.shape[0] // 2, 4, image.shape[1] // 4, 3)
    drawn = (panels < 128).any(axis=(1, 3, 4))
    assert drawn.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'sama-video\[judge\]'"):
        draw_histograms([], quick_config("http://nobody.invalid/v1"), tmp_path / "histogram.png")


def command(manifest, out, server, *more):
    options = ["--model", "judge", "--base-url", server.base_url, "--frames", "2", "--long-side", "32"]
    return ["data", "curate", manifest, "--out", out, *options, "--concurrency", "3", *map(str, more)]


def test_the_command_plans_and_says_what_is_wrong(manifest, tmp_path):
    with JudgeServer(always=Mishap(404, error_body("no such model"))) as server:
        dry_run = command(manifest, tmp_path, server, "--dry-run", "--price-in", 2)
        dry = sama(*dry_run)
        assert dry.returncode == 0
        assert f"0 answered already, {QUESTIONS} to ask" in dry.stdout
        assert server.requests == []
        wrong = sama(*command(manifest, tmp_path, server))
    assert wrong.returncode == 2
    assert "sama: " in wrong.stderr
    assert "check --model" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_remote_files_are_judged_by_content_and_named_by_address(manifest, undisturbed, tmp_path):
    (tmp_path / "answers.jsonl").write_bytes((undisturbed / "answers.jsonl").read_bytes())
    rows = [
        replace(row, src_video=f"file://{row.src_video}", tgt_video=f"file://{row.tgt_video}")
        for row in read_manifest(manifest)
    ]
    rows.append(replace(rows[0], src_video="file:///nowhere/a.mp4"))
    curate(rows, tmp_path, quick_config("http://nobody.invalid/v1"))
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (undisturbed / "scores.jsonl").read_text().splitlines()]
    assert [line["turns"] for line in lines[:-1]] == [line["turns"] for line in expected]
    assert lines[-2]["unreadable"].startswith(f"{rows[-2].src_video} is not a video")
    assert "file:///nowhere/a.mp4" in lines[-1]["unreadable"]


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "turns"), [(5, 3), (25, 12)], ids=["5 kills", "25 kills"])
def test_a_run_killed_at_any_moment_goes_on_and_ends_in_the_same_files(manifest, tmp_path, kills, turns):
    killed = tmp_path / "killed"
    server = killed_often(
        lambda server: command(manifest, killed, server, "--turns", turns), killed / "answers.jsonl", kills, 5, 0.01
    )
    assert len(server.sold) == QUESTIONS // 3 * turns
    # Bought twice is at most what was in flight at a kill.
    assert server.sold.total() - len(server.sold) <= 3 * kills
    with JudgeServer() as quiet:
        config = quick_config(quiet.base_url, turns=turns)
        curate(read_manifest(manifest), tmp_path / "quiet", config)
    assert derived_files(tmp_path / "killed") == derived_files(tmp_path / "quiet")
