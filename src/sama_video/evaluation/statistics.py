"""How sure a score is: bootstrap intervals over sources, differences of two editors, agreement of two judges.

Shape legend: N items, K columns of scores, C clusters, D draws. Scores are float64 `[N, K]`; NaN marks an item that a
column's mean leaves out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
_LEVEL = 0.95
# Percentile intervals of fewer sources are clearly too narrow.
FEW_SOURCES = 10
# Draws worked on at once: C = 10,000 clusters then take 20 MB.
_BLOCK = 250


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN where there is nothing to estimate from.

    Args:
        low, high: NaN too where one source says nothing about the spread of others.
        sources: clusters behind the estimate; None for a number that is no estimate.
    """

    value: float
    low: float
    high: float
    sources: int | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether it stands on so few sources that it must be read with care."""
        return self.sources is not None and 0 < self.sources < FEW_SOURCES

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """Fractions of the common items where the first scores higher, equal, and lower; `score` counts a tie as half."""

    wins: float
    ties: float
    losses: float
    score: Interval


def column_means(scores: np.ndarray) -> np.ndarray:
    """Means `[K]` over the items that count, of `[N, K]`; NaN for a column without any."""
    return _ratio(np.nansum(scores, axis=0), (~np.isnan(scores)).sum(axis=0))


def mean_intervals(
    scores: np.ndarray, clusters: Sequence[str], *, draws: int = DRAWS, level: float = _LEVEL, seed: int = 0
) -> list[Interval]:
    """Mean and percentile bootstrap interval of each of the K columns of `[N, K]`.

    Whole clusters are drawn with replacement, as many as there are, since edits of one source rise and fall together
    (the cluster bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13).

    Args:
        clusters: of each item.
        draws: resamples.
        level: of confidence.
        seed: the same seed gives the same interval.
    """
    resampled = _resampled_means(scores, clusters, draws, seed)
    tail = (1 - level) / 2
    # Where nothing counts every quantile is NaN, without a warning.
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    sources = [len(set(np.asarray(clusters)[~np.isnan(column)])) for column in scores.T]
    # All draws of one source are the same: an interval without width, which would seem to decide.
    alone = np.array(sources) == 1
    bounds = np.where(alone, np.nan, low), np.where(alone, np.nan, high)
    return [
        Interval(float(value), float(low), float(high), count)
        for value, low, high, count in zip(column_means(scores), *bounds, sources, strict=True)
    ]


def _resampled_means(scores: np.ndarray, clusters: Sequence[str], draws: int, seed: int) -> np.ndarray:
    """Means `[D, K]` of resampled clusters. A draw without any item that counts takes the mean of all."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    counts = _cluster_sums(~np.isnan(scores), index, len(names))
    sums = _cluster_sums(np.nan_to_num(scores), index, len(names))
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _BLOCK):
        chosen = generator.integers(len(names), size=(min(_BLOCK, draws - start), len(names)))
        weights = np.stack([np.bincount(row, minlength=len(names)) for row in chosen]).astype(np.float64)
        means.append(_ratio(weights @ sums, weights @ counts))
    return np.where(np.isnan(resampled := np.concatenate(means)), column_means(scores), resampled)


def _cluster_sums(values: np.ndarray, index: np.ndarray, num_clusters: int) -> np.ndarray:
    """`[N, K]` -> `[C, K]`."""
    sums = np.zeros((num_clusters, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def paired_difference(first: np.ndarray, second: np.ndarray, clusters: Sequence[str]) -> Interval:
    """Mean of `first - second` `[N]` over the items that both have, with its interval: what items share cancels out."""
    return mean_intervals((first - second)[:, None], clusters)[0]


def win_rate(first: np.ndarray, second: np.ndarray, clusters: Sequence[str]) -> WinRate:
    """How often `first` `[N]` beats `second` `[N]` on the items that both have."""
    common = ~np.isnan(first - second)
    outcome = np.where(common, (np.sign(np.where(common, first - second, 0)) + 1) / 2, np.nan)
    score = mean_intervals(outcome[:, None], clusters)[0]
    wins, ties, losses = (float(column_means((outcome == value)[common, None])[0]) for value in (1.0, 0.5, 0.0))
    return WinRate(wins=wins, ties=ties, losses=losses, score=score)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of the ranks of two `[N]`, equal values sharing the mean of theirs; NaN if one of them is
    constant."""
    return _agreement("spearmanr", first, second)


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b of two `[N]`: concordant less discordant pairs, over the pairs tied in neither's own ranking; NaN
    if one of them is constant."""
    return _agreement("kendalltau", first, second)


def _agreement(name: str, first: np.ndarray, second: np.ndarray) -> float:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")  # without SciPy's warning
    from scipy import stats  # takes a second to import, and most reports have one judge

    return float(getattr(stats, name)(first, second).statistic)
