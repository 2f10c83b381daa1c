"""Intervals cover as often as they say, cancel what is shared, and rank correlations meet their definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sama_video.evaluation.statistics import (
    column_means,
    kendall_tau,
    mean_intervals,
    paired_difference,
    spearman,
    win_rate,
)

NORMAL_QUANTILE = 1.96


def names(count, per_cluster=1):
    return [f"source {index // per_cluster}" for index in range(count)]


def test_an_interval_of_independent_items_is_the_textbooks():
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = mean_intervals(values[:, None], names(400), draws=4000)[0]
    half = NORMAL_QUANTILE * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.value == pytest.approx(half, rel=0.06)
    assert interval.value - interval.low == pytest.approx(half, rel=0.06)


def test_copies_of_an_item_in_its_cluster_do_not_make_the_interval_narrower():
    values = np.random.default_rng(1).normal(0, 1, 50)
    alone = mean_intervals(values[:, None], names(50))[0]
    copied = mean_intervals(np.repeat(values, 8)[:, None], names(400, per_cluster=8))[0]
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))
    pretended = mean_intervals(np.repeat(values, 8)[:, None], names(400))[0]
    assert pretended.high - pretended.low < 0.5 * (copied.high - copied.low)


def test_one_source_has_no_interval_however_many_items_it_has():
    values = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, np.nan], [6.0, 4.0, np.nan]])
    several, one_item, one_of_two = mean_intervals(values, ["a", "a", "b"])
    assert (several.value, several.sources) == (3, 2)
    assert several.low < several.high
    for lone in (one_item, one_of_two):
        assert lone.sources == 1
        assert np.isnan([lone.low, lone.high]).all()
    assert mean_intervals(values[:2, :1], ["a", "a"])[0].sources == 1
    assert paired_difference(values[:1, 0], values[:1, 2], ["a"]).sources == 1
    assert mean_intervals(np.full((2, 1), np.nan), ["a", "b"])[0].sources == 0


def test_an_interval_of_fewer_than_ten_sources_is_unsure():
    unsure = [mean_intervals(np.arange(count)[:, None] * 1.0, names(count))[0].is_unsure for count in (1, 2, 9, 10)]
    assert unsure == [True, True, True, False]


@pytest.mark.parametrize(("per_cluster", "level"), [(1, 0.95), (5, 0.95), (5, 0.8)])
def test_coverage_is_as_promised(per_cluster, level):
    rng = np.random.default_rng(2)
    clusters, trials = names(40 * per_cluster, per_cluster), 400
    covered = 0
    for trial in range(trials):
        shared = np.repeat(rng.normal(0, 1, 40), per_cluster)
        values = 3 + shared + rng.normal(0, 0.5, 40 * per_cluster)
        covered += 3 in mean_intervals(values[:, None], clusters, draws=400, level=level, seed=trial)[0]
    # Percentile intervals of 40 clusters cover a little too seldom; 400 trials add three standard errors of 1 to 2 %.
    assert level - 0.07 < covered / trials < level + 0.05


def test_one_seed_one_interval_and_columns_do_not_disturb_each_other():
    values = np.random.default_rng(3).normal(0, 1, (60, 3))
    both = mean_intervals(values, names(60, 2))
    assert both == mean_intervals(values, names(60, 2))
    alone = mean_intervals(values[:, 1:2], names(60, 2))[0]
    assert (both[1].value, both[1].low, both[1].high) == pytest.approx((alone.value, alone.low, alone.high))
    assert alone != mean_intervals(values[:, 1:2], names(60, 2), seed=1)[0]


def test_items_that_a_column_leaves_out_change_nothing_in_it():
    values = np.random.default_rng(4).normal(0, 1, (30, 1))
    clusters = names(30)
    padded = np.concatenate([values, np.full((5, 1), np.nan)])
    assert column_means(padded)[0] == pytest.approx(values.mean())
    interval = mean_intervals(padded, [*clusters, *clusters[:5]])[0]
    plain = mean_intervals(values, clusters)[0]
    assert (interval.low, interval.high) == pytest.approx((plain.low, plain.high))
    nothing = mean_intervals(np.full((3, 1), np.nan), names(3))[0]
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_a_paired_difference_sees_what_shared_difficulty_hides():
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 3, 100)
    first, second = difficulty + 0.5 + rng.normal(0, 0.5, 100), difficulty + rng.normal(0, 0.5, 100)
    difference = paired_difference(first, second, names(100))
    assert difference.value == pytest.approx((first - second).mean())
    assert difference.low > 0
    alone = [mean_intervals(values[:, None], names(100))[0] for values in (first, second)]
    assert alone[0].low < alone[1].high
    mirrored = paired_difference(second, first, names(100))
    assert (mirrored.value, mirrored.low) == pytest.approx((-difference.value, -difference.high), abs=0.02)


def test_wins_ties_and_losses_are_counted_over_common_items():
    first = np.array([3, 2, 1, 5, np.nan, 4])
    second = np.array([1, 2, 2, 4, 3, np.nan])
    rate = win_rate(first, second, names(6))
    assert (rate.wins, rate.ties, rate.losses) == (0.5, 0.25, 0.25)
    assert rate.score.value == pytest.approx(0.625)
    assert rate.score.low <= 0.625 <= rate.score.high


scores = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=12)


@settings(deadline=None)  # SciPy is imported at the first call
@given(scores)
def test_kendalls_tau_is_its_definition(pairs):
    x, y = (np.array(side, float) for side in zip(*pairs, strict=True))
    both = list(itertools.combinations(pairs, 2))
    signs = [(np.sign(b[0] - a[0]), np.sign(b[1] - a[1])) for a, b in both]
    concordant = sum(s * t > 0 for s, t in signs)
    discordant = sum(s * t < 0 for s, t in signs)
    scale = np.sqrt(sum(s != 0 for s, _ in signs) * sum(t != 0 for _, t in signs))
    expected = (concordant - discordant) / scale if scale else np.nan
    assert kendall_tau(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def ranks(values):
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


@settings(deadline=None)  # SciPy is imported at the first call
@given(scores)
def test_spearmans_rho_is_the_correlation_of_counts_of_those_below(pairs):
    x, y = (ranks(np.array(side, float)) for side in zip(*pairs, strict=True))
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    expected = (x * y).sum() / scale if scale else np.nan
    assert spearman(*(np.array(side, float) for side in zip(*pairs, strict=True))) == pytest.approx(
        expected, abs=1e-12, nan_ok=True
    )


def test_rank_correlations_of_known_rankings():
    x = np.arange(5.0)
    y = np.array([1.0, 0, 2, 3, 4])  # one swapped pair of ten; squared rank differences 1 + 1
    assert kendall_tau(x, y) == pytest.approx(0.8)
    assert spearman(x, y) == pytest.approx(1 - 6 * 2 / (5 * 24))
    for agreement in (kendall_tau, spearman):
        assert agreement(x, np.exp(x)) == pytest.approx(1)
        assert agreement(x, -x) == pytest.approx(-1)
        assert np.isnan(agreement(x, np.ones(5)))
