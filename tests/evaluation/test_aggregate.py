"""Known scores of items give known tables, by the benchmarks' rules and by the authors' scripts with their traps."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sama_video.evaluation.aggregate import (
    Counts,
    aggregate,
    aggregate_exact,
    overall_scores,
    rule_of,
)
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.records import ExactScores
from sama_video.evaluation.statistics import column_means
from sama_video.system.errors import UserError

from .made_up import judgment, make_items, without_scores

RECO, OPENVE, VIE = (find_benchmark(name) for name in ("reco_bench", "openve_bench", "vie_bench"))


def reco(judgments, items, compat=None):
    """Means of the first task's columns by name, and its counts."""
    task = aggregate(RECO, items, judgments, compat=compat)[0]
    return dict(zip(task.columns, column_means(task.scores), strict=True)), task.counts


@pytest.fixture
def items():
    return make_items("reco_bench", 4)[:4]


@pytest.fixture
def judgments(items):
    """Two answers, an edit that is missing, and a request that failed."""
    return [
        judgment("reco_bench", items[0], [8, 8, 1, 10, 10, 10, 9, 3, 1]),
        judgment("reco_bench", items[1], [2, 2, 2, 5, 5, 5, 4, 4, 4]),
        without_scores(items[2], "missing"),
        without_scores(items[3], "error"),
    ]


def test_reco_by_hand_items_without_scores_count_nothing(judgments, items):
    means, counts = reco(judgments, items)
    assert means["SA"] == pytest.approx((8 + 2) / 4)
    assert means["CP"] == pytest.approx((1 + 2) / 4)
    assert means["S_EA"] == pytest.approx((4 + 2) / 4)  # the cube root of 8 * 8 * 1 is 4
    assert means["S_VN"] == pytest.approx((10 + 5) / 4)
    assert means["S_VQ"] == pytest.approx((3 + 4) / 4)
    assert means["S"] == pytest.approx((6 / 4 + 15 / 4 + 7 / 4) / 3)
    assert counts == Counts(ok=2, missing=1, failed=1)


def test_reco_compat_by_hand_missing_items_flatter_and_errors_count_twice(judgments, items):
    means, counts = reco(judgments, items, {})
    assert means["SA"] == pytest.approx((8 + 2) / 2)  # the error leaves the dimensions
    assert means["S_EA"] == pytest.approx((4 + 2 + 0) / 3)  # and counts 0 in the blocks; the missing edit leaves both
    assert means["S"] == pytest.approx((6 / 3 + 15 / 3 + 7 / 3) / 3)
    assert counts == Counts(ok=2, missing=1, failed=1)


def test_reco_compat_leaves_out_unequal_lengths_and_takes_a_word_for_a_failure(judgments, items):
    for reason in ("unequal lengths: 9 and 8 frames", "unequal heights: 32 and 64 pixels", "unequal heights: 3; x"):
        dropped = [judgments[0], replace(judgments[1], reason=reason), *judgments[2:]]
        unequal, _ = reco(dropped, items, {})
        assert unequal["SA"] == pytest.approx(8)
        assert unequal["S_EA"] == pytest.approx((4 + 0) / 2)
    worded = [replace(judgments[0], answer="k"), *judgments[1:]]
    worded, _ = reco(worded, items, {"k": "I see no Error here"})
    assert worded["SA"] == pytest.approx(2)
    assert worded["S_EA"] == pytest.approx((0 + 2 + 0) / 3)
    honest, _ = reco(judgments, items)
    assert honest["SA"] == pytest.approx((8 + 2) / 4)


@pytest.mark.parametrize("status", ["parse_failed", "refused"])
def test_reco_compat_stops_at_an_answer_that_cannot_be_parsed(judgments, items, status):
    judgments[3] = without_scores(items[3], status)
    with pytest.raises(UserError, match=r"stops at an answer .*add/0003"):
        reco(judgments, items, {})
    assert reco(judgments, items)[1] == Counts(ok=2, missing=1, failed=1)


def test_openve_rounds_an_items_mean_and_fails_to_the_lowest_score():
    items = make_items("openve_bench", 3)[:3]
    judgments = [
        judgment("openve_bench", items[0], [5, 4, 4]),
        judgment("openve_bench", items[1], [2, 1, 1]),
        without_scores(items[2], "parse_failed"),
    ]
    (task,) = aggregate(OPENVE, items, judgments)
    assert task.headline.tolist() == [4.33, 1.33, 1.0]
    (authors,) = aggregate(OPENVE, items, judgments, compat={})
    assert authors.headline[:2].tolist() == [4.33, 1.33]
    assert math.isnan(authors.headline[2])
    assert column_means(authors.scores)[-1] == pytest.approx((4.33 + 1.33) / 2)


def test_overall_weighs_tasks_by_their_items():
    items = [item for item in make_items("openve_bench", 3) if item.task in ("global_style", "local_add")][:4]
    scores = [5, 5, 5, 1]
    judged = [judgment("openve_bench", item, score) for item, score in zip(items, scores, strict=True)]
    overall = overall_scores(aggregate(OPENVE, items, judged))
    assert overall.headline.tolist() == scores
    assert overall.counts.ok == 4


def test_repeats_are_averaged_before_anything_else():
    items = make_items("vie_bench", 2)[:2]
    judged = [
        judgment("vie_bench", items[0], [1, 10, 4], repeat=0),
        judgment("vie_bench", items[0], [4, 10, 4], repeat=1),
    ]
    judged += [without_scores(items[0], "parse_failed"), judgment("vie_bench", items[1], 9)]
    (task,) = aggregate(VIE, items, judged)
    assert task.scores.tolist() == [[2.5, 10, 4, 5.5], [9, 9, 9, 9]]
    assert task.counts == Counts(ok=2, missing=0, failed=0)


def test_an_item_that_nobody_judged_counts_as_failed():
    items = make_items("vie_bench", 2)[:2]
    (task,) = aggregate(VIE, items, [judgment("vie_bench", items[0], 7)])
    assert task.headline.tolist() == [7, VIE.failed]
    assert task.counts == Counts(ok=1, missing=0, failed=1)


def test_geometric_means_are_taken_after_the_repeats():
    items = make_items("reco_bench", 1)[:1]
    judged = [judgment("reco_bench", items[0], score, repeat=repeat) for repeat, score in enumerate([2, 6])]
    assert reco(judged, items)[0]["S_EA"] == pytest.approx(4)


def test_the_order_of_judgments_does_not_matter(judgments, items):
    forward = aggregate(RECO, items, judgments)[0].scores
    assert np.array_equal(forward, aggregate(RECO, items, judgments[::-1])[0].scores)


def test_rules_are_said_and_unknown_scripts_are_not_guessed():
    assert "counts 0 in every dimension" in rule_of(RECO)
    assert "counts 1 in every dimension" in rule_of(OPENVE)
    items = make_items("vie_bench", 1)
    with pytest.raises(UserError, match="not known; leave out `compat`"):
        aggregate(VIE, items, [], compat={})


def test_judges_are_not_mixed(items):
    judged = [judgment("reco_bench", items[0], 5, judge=judge) for judge in ("a", "b")]
    with pytest.raises(UserError, match="cannot mix the judges a, b"):
        aggregate(RECO, items, judged)


def test_columns_are_dimensions_blocks_and_the_mean_of_several_blocks():
    assert RECO.tasks[0].columns[-4:] == ("S_EA", "S_VN", "S_VQ", "S")
    assert len(OPENVE.tasks[0].columns) == 4


def test_exact_scores_by_family():
    items = make_items("vie_bench", 2)[:4]  # two of each of two tasks
    records = [
        ExactScores(item=items[0].id, status="ok", scores={"success": 0.0, "psnr": 10.0}),
        ExactScores(item=items[0].id, status="ok", scores={"success": 1.0, "psnr": 20.0}),
        ExactScores(item=items[1].id, status="missing"),
        ExactScores(item=items[2].id, status="ok", scores={"success": None, "psnr": 30.0}),
    ]
    add, swap, everything = aggregate_exact(items, records)
    assert (add.task, swap.task, everything.task) == ("add", "swap", "all")
    assert column_means(add.scores).tolist() == [0.5, 20]  # the missing edit fails, and has no PSNR
    assert column_means(swap.scores).tolist() == [0, 30]  # of the one item that is not there, and of the other
    assert add.counts == Counts(ok=1, missing=1, failed=0)
    assert everything.counts == Counts(ok=2, missing=2, failed=0)
    assert column_means(everything.scores)[0] == pytest.approx(1 / 3)
