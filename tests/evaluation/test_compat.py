"""What the authors' scripts make of answers, by hand: numbers that their own code gives for the same texts."""

import json
import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from sama_video.evaluation.aggregate import aggregate
from sama_video.evaluation.authors import AuthorsStopError, openve_score, reco_scores
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.records import Judgment
from sama_video.evaluation.report import ReportConfig, build_report
from sama_video.evaluation.scored import read_scored
from sama_video.evaluation.statistics import column_means
from sama_video.judge.answers import Answer, AnswerStore
from sama_video.system.errors import UserError
from tests.clips import write_clip

from .made_up import make_items, write_made_up_run

OPENVE, RECO = find_benchmark("openve_bench"), find_benchmark("reco_bench")
LINES = "Brief reasoning: {}.\nPrompt Compliance: {}\nVisual Quality: {}\nDetail: {}\n"
OPENVE_ANSWERS = {
    "a number in the reasoning": (LINES.format("2 of 5 hats are there", 5, 5, 5), 4.25),
    "stars around a label": ("Brief reasoning: ok\n**Prompt Compliance:** 4\nVisual Quality: 3\nDetail: 2\n", 2.5),
    "a fraction": (LINES.format("ok", "4/5", 3, 2), 3.0),
    "a remark": (LINES.format("ok", "4 (minor flaw)", 3, 2), 3.0),
    "a missing line": ("Brief reasoning: ok\nPrompt Compliance: 4\nVisual Quality: 3\n", 3.5),
    "a number without its colon": ("Prompt Compliance 4\nVisual Quality: 3\nDetail: 2\n", 2.5),
    "decimals": (LINES.format("ok", 4.5, "3.", 3), 3.5),
    "a mean that is rounded": (LINES.format("ok", 5, 4, 4), 4.33),
    "a time": (LINES.format("at 0:03 it breaks", 3, 3, 3), 3.0),
    "a mean above the scale": (LINES.format("frame: 81", 3, 3, 3), None),
    "no number": ("I cannot see videos.", None),
    "nothing": ("", None),
    "a number without end": (f"Score: {'9' * 5000}", None),
    "zeros": (LINES.format("ok", 0, 0, 0), None),
}


@pytest.mark.parametrize(("text", "score"), OPENVE_ANSWERS.values(), ids=OPENVE_ANSWERS)
def test_openves_script_takes_every_number_behind_a_colon(text, score):
    assert openve_score(text) == score


def blocks(accuracy, quality=(5, 5, 5), naturalness=(5, 5, 5)):
    names = ("edit_accuracy", "video_quality", "naturalness")
    given = zip(names, (accuracy, quality, naturalness), strict=True)
    return json.dumps({name: {"scores": scores, "reasoning": ""} for name, scores in given})


def reco(text):
    """(SA, SP, CP) and S_EA."""
    values = reco_scores(text, RECO.tasks[0].blocks)
    return [None if math.isnan(value) else value for value in values[:3]], values[9]


RECO_ANSWERS = {
    "three numbers": (blocks([8, 8, 1]), [8, 8, 1], 4),
    "two numbers": (blocks([9, 4]), [9, 4, None], 6),
    "four numbers": (blocks([2, 2, 2, 16]), [2, 2, 2], 128**0.25),
    "one number": (blocks([7]), [7, None, None], 7),
    "none": (blocks([]), [None, None, None], 0),
    "texts": (blocks(["8", "8", "1"]), [8, 8, 1], 4),
    "a word": (blocks([8, "good", 8]), [8, None, 8], 0),
    "null": (blocks([8, None, 8]), [8, None, 8], 0),
    "below nothing": (blocks([8, -1, 8]), [8, -1, 8], 0),
    "above the scale": (blocks([20, 20, 20]), [20, 20, 20], 20),
    "true": (blocks([8, True, 8]), [8, 1, 8], 4),
    "a text for a list": (blocks("898"), [8, 9, 8], (8 * 9 * 8) ** (1 / 3)),
    "a number of 400 digits": (blocks([10**400, 8, 8]), [None, 8, 8], 0),
    "no block": ('{"naturalness": {"scores": [5, 5, 5]}}', [None, None, None], 0),
    "an empty block": ('{"edit_accuracy": {}}', [None, None, None], 0),
    "a block of null": ('{"edit_accuracy": null}', [None, None, None], 0),
    "an empty object": ("{}", [None, None, None], 0),
    "words around": (f"Here: {blocks([8, 8, 1])} {{that}} was it", [8, 8, 1], 4),
    "braces in the reasoning": (blocks([8, 8, 1]).replace('""', '"}{ \\"}"'), [8, 8, 1], 4),
    "the same key twice": ('{"edit_accuracy": {"scores": [1]}, "edit_accuracy": {"scores": [9]}}', [9, None, None], 9),
    "the word error": (blocks([8, 8, 1]).replace('""', '"no Error"'), [None, None, None], 0),
}


@pytest.mark.parametrize(("text", "dimensions", "mean"), RECO_ANSWERS.values(), ids=RECO_ANSWERS)
def test_recos_script_takes_what_it_finds(text, dimensions, mean):
    found, accuracy = reco(text)
    assert found == dimensions
    assert accuracy == pytest.approx(mean)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nine",
        '{"edit_accuracy": {"scores": [8, 8, 1],}}',
        blocks([8, 8, 1])[:-1],
        '{"edit_accuracy": 7}',
        '{"edit_accuracy": [8, 8, 1]}',
        '{"edit_accuracy": {"scores": 8}}',
        '{"edit_accuracy": {"scores": null}}',
        '{"edit_accuracy": {"scores": [%s]}}' % ("9" * 5000),
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"reasoning": "a\nbreak"}',
    ],
)
def test_recos_script_stops_at_anything_else(text):
    with pytest.raises(AuthorsStopError):
        reco(text)


@pytest.mark.parametrize("piece", ['"', '\\"', "{", ": ", ":", "9", '{"a"'])
def test_texts_of_a_megabyte_are_read_in_seconds(piece):
    text = "{" + piece * (2**20 // len(piece))
    started = time.process_time()
    openve_score(text)
    with pytest.raises(AuthorsStopError):
        reco(text)
    assert time.process_time() - started < 8


# A whole table


def answered(items, texts, status="ok"):
    return [
        Judgment(item=item.id, judge="j", repeat=0, status=status, answer=f"k{index}")
        for index, item in enumerate(items[: len(texts)])
    ]


def test_six_items_of_reco_as_the_authors_script_counts_them():
    """Two stand side by side and were answered; two lie outside the table; one holds "error" and one a word."""
    items = make_items("reco_bench", 6)[:6]
    texts = [blocks([8, 8, 1]), blocks([9, 9, 9]), blocks([2, 2, 2]), "Error", blocks([4, "x", 4]), blocks([3, 3, 3])]
    one, shorter, taller, error, word, _ = answered(items, texts)
    judgments = [
        one,
        replace(shorter, reason="unequal lengths: 9 and 8 frames"),
        replace(taller, reason="unequal heights: 32 and 64 pixels", status="parse_failed"),
        replace(error, status="parse_failed", reason="no JSON object"),
        replace(word, status="parse_failed", reason="SP is not a number"),
    ]
    known = {f"k{index}": text for index, text in enumerate(texts)}
    task = aggregate(RECO, items, judgments, compat=known)[0]
    means = dict(zip(task.columns, column_means(task.scores), strict=True))
    assert means["SA"] == pytest.approx((8 + 4) / 2)
    assert means["SP"] == pytest.approx(8)
    assert means["S_EA"] == pytest.approx((4 + 0 + 0) / 3)
    assert means["S_VQ"] == pytest.approx((5 + 0 + 5) / 3)
    assert means["S"] == pytest.approx((4 / 3 + 10 / 3 + 10 / 3) / 3)
    with pytest.raises(UserError, match="not among the run's; judge the run again"):
        aggregate(RECO, items, judgments, compat={})


def test_openves_table_holds_the_authors_numbers():
    items = make_items("openve_bench", 14)[:14]
    texts = [text for text, _ in OPENVE_ANSWERS.values()]
    scores = [score for _, score in OPENVE_ANSWERS.values()]
    judgments = answered(items, texts, "parse_failed")
    (task,) = aggregate(OPENVE, items, judgments, compat={f"k{n}": text for n, text in enumerate(texts)})
    expected = [np.nan if score is None else score for score in scores]
    assert np.array_equal(task.headline, expected, equal_nan=True)


def test_repeats_are_averaged_as_the_authors_count_each():
    (item,) = make_items("openve_bench", 1)[:1]
    judgments = [replace(one, repeat=n, answer=f"k{n}") for n, one in enumerate(answered([item], ["x"]) * 3)]
    (task,) = aggregate(OPENVE, [item], judgments, compat={"k0": "a: 2", "k1": "a: 3", "k2": "none"})
    assert task.headline.tolist() == [2.5]


def test_a_report_reads_the_first_answer_of_each_item(tmp_path):
    write_clip(tmp_path / "source-0.mp4", 5)
    items = make_items("openve_bench", 1, tmp_path, sources=1)[:1]
    (judgment,) = answered(items, ["x"])
    judgment = replace(judgment, scores={"compliance": 5.0, "fidelity": 5.0, "quality": 5.0})
    run = write_made_up_run(tmp_path / "run", "openve_bench", "mine", items, {"j": [judgment]})
    with AnswerStore(run / "answers.jsonl") as store:
        store.append(Answer(key="k0", task="t", status="ok", text="a: 5", earlier=("b: 2 of 5: 4", "c: 1")))
    report = build_report(read_scored([run], compat=True), ReportConfig(compat=True))
    assert report.tables[0].rows[0].cells[0].value == 3.0
    assert re.search("follow a colon", report.tables[0].notes[0])
