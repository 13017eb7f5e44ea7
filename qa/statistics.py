"""The 95 % intervals of scores and of their differences: the one place that computes them.

What is drawn at random is not the single question but its cluster: all questions that a gold
passage connects (`clusters_of`), since they are right or wrong together. Three rules follow from
what is known of a score:

* A score between 0 and a largest value, such as EM, F1, accuracy or recall, gets the interval of
  Wilson (1927) for a rate, with an effective number of questions (`effective_number`).
* The difference of two such scores gets the adjusted Wald interval of Bonett and Price (2012) for
  paired rates, with the same effective number.
* A score without a largest value, such as the nll, its difference, and the rank correlation of two
  values get the percentile bootstrap over clusters.

The first two do not collapse at the edges: 0 of 40 right is 0 to 8.8 %, and two methods that agree
on all of 40 questions differ by -6.6 to 6.6 points. docs/evaluation.md says why these rules.

Shapes: Q questions, C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

LEVEL = 0.95
_CHUNK = 4_000_000  # The most resampled indices in memory at a time; they take 32 MB.
_RESAMPLES = 2000
_PRIOR = 0.25  # The variance of a rate of one half, which is the largest there is.

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean with the ends of its interval, which are None where no interval can be given."""

    value: float
    low: float | None
    high: float | None

    def metrics(self, name: str) -> dict[str, float]:
        """The keys ``<name>``, ``<name>_low`` and ``<name>_high``; the last two if there are."""
        ends = {f"{name}_low": self.low, f"{name}_high": self.high}
        return {name: self.value} | {key: end for key, end in ends.items() if end is not None}


def clusters_of(gold: Sequence[Sequence[str] | None]) -> list[int]:
    """Number the clusters of questions: those that share a gold passage, directly or over others.

    Args:
        gold: The ids of the gold passages of each question. A question without any, or of which
            they are not known (None), is a cluster of its own.

    Returns:
        The number of the cluster of each question, from 0 on.
    """
    parents = list(range(len(gold)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first: dict[str, int] = {}
    for i, ids in enumerate(gold):
        for id in ids or ():
            parents[root(i)] = root(first.setdefault(id, i))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(gold))]


def estimate(
    values: ArrayLike,
    clusters: Sequence[int] | None = None,
    largest: float | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """The mean of a score over questions, with its interval.

    Args:
        values: ``[Q]``, the score of each question.
        clusters: The cluster of each question. None: each question is its own.
        largest: The largest value that the score may have; the smallest is then 0. None: the score
            has no bounds, and the interval comes from the bootstrap.
        seed: The seed of the bootstrap.
        level: The share of samples whose interval holds the true mean.

    Returns:
        The mean and its interval, in the unit of the values. A score without bounds has no
        interval if all questions are one cluster.

    Raises:
        ValueError: If there is no value, if one is not finite or out of bounds, if the numbers of
            values and clusters differ, or if the level is not between 0 and 1.
    """
    values_Q, clusters_Q = _checked(values, clusters, level)
    mean = float(values_Q.mean())
    if largest is None:
        return Estimate(mean, *_bootstrap(values_Q, clusters_Q, seed, level))
    shares_Q = values_Q / largest
    if shares_Q.min() < 0 or shares_Q.max() > 1:
        raise ValueError(
            f"expected values from 0 to {largest:g}, got {values_Q.min():g} to {values_Q.max():g}"
        )
    p = mean / largest
    low, high = _wilson(p, effective_number(shares_Q, clusters_Q, p * (1 - p)), _normal(level))
    return Estimate(mean, largest * min(low, p), largest * max(high, p))


def difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[int] | None = None,
    largest: float | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """The mean of ``a - b`` over questions, with its interval.

    Both methods have answered the same questions, so it is the differences that are averaged: what
    makes a question hard for both cancels out. `qa.evaluation.pairing` pairs the questions of two
    runs by their ids.

    Args:
        a: ``[Q]``, the score of each question.
        b: ``[Q]``, the other method's scores of the same questions in the same order.
        clusters: As in `estimate`.
        largest: As in `estimate`; it is that of the scores themselves.
        seed: As in `estimate`.
        level: As in `estimate`.

    Returns:
        The mean difference and its interval.

    Raises:
        ValueError: As in `estimate`, or if the two differ in length.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"a paired difference needs the same questions on both sides, got {np.size(a)} and "
            f"{np.size(b)} values; evaluate both with the same data, split, limit and seed"
        )
    values = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    values_Q, clusters_Q = _checked(values, clusters, level)
    mean = float(values_Q.mean())
    if largest is None:
        return Estimate(mean, *_bootstrap(values_Q, clusters_Q, seed, level))
    steps_Q = values_Q / largest
    if np.abs(steps_Q).max() > 1:
        raise ValueError(
            f"expected differences of values from 0 to {largest:g}, got one of "
            f"{np.abs(values_Q).max():g}"
        )
    d, number = mean / largest, effective_number(steps_Q, clusters_Q)
    squares = float(np.mean(steps_Q**2))
    # One question more that the first method alone has right, and one that the second has.
    centre = number * d / (number + 2)
    variance = ((number * squares + 2) / (number + 2) - centre**2) / (number + 2)
    half = _normal(level) * math.sqrt(variance)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Estimate(mean, largest * min(low, d), largest * max(high, d))


def rank_correlation(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[int] | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """How closely two values of a question rise together: Spearman's rank correlation.

    Args:
        a: ``[Q]``, one value of each question; at least two differ.
        b: ``[Q]``, the other one, likewise.
        clusters: As in `estimate`.
        seed: The seed of the bootstrap.
        level: As in `estimate`.

    Returns:
        The correlation, from -1 to 1, and its interval by the percentile bootstrap over clusters.
        There is no interval if all questions are one cluster, or if many resamples have no two
        values that differ.

    Raises:
        ValueError: As in `estimate`, or if the two differ in length or one has no two values that
            differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"expected pairs of values, got {np.size(a)} and {np.size(b)}")
    a_Q, clusters_Q = _checked(a, clusters, level)
    b_Q, _ = _checked(b, clusters, level)
    value = _spearman(a_Q, b_Q)
    if math.isnan(value):
        raise ValueError("expected values that differ, got the same one for all questions")
    count = int(clusters_Q.max()) + 1
    members = np.split(np.argsort(clusters_Q, kind="stable"), np.bincount(clusters_Q).cumsum()[:-1])
    random = np.random.default_rng(seed)
    drawn = [
        _spearman(a_Q[rows], b_Q[rows])
        for each in random.integers(count, size=(_RESAMPLES, count))
        for rows in [np.concatenate([members[cluster] for cluster in each])]
    ]
    found = np.array([rho for rho in drawn if not math.isnan(rho)])
    if count == 1 or len(found) < _RESAMPLES / 2:
        return Estimate(value, None, None)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def over_runs(
    values: Sequence[float], largest: float | None = None, level: float = LEVEL
) -> Estimate:
    """The mean of a metric over runs that differ in their seed, with its t interval.

    Args:
        values: The metric of each run.
        largest: As in `estimate`; the interval is cut off at 0 and there.
        level: The share of samples whose interval holds the true mean.

    Returns:
        The mean and its interval; a single run has none.

    Raises:
        ValueError: If there is no value, or one is not finite.
    """
    values_R, _ = _checked(values, None, level)
    mean, count = float(values_R.mean()), len(values_R)
    if count == 1:
        return Estimate(mean, None, None)
    half = _student(level, count - 1) * float(values_R.std(ddof=1)) / math.sqrt(count)
    if largest is None:
        return Estimate(mean, mean - half, mean + half)
    return Estimate(mean, max(0.0, mean - half), min(largest, mean + half))


def effective_number(
    values_Q: Floats, clusters_Q: NDArray[np.int64], assumed: float | None = None
) -> float:
    """How many independent questions tell as much about the mean as these clustered ones.

    It is the number of questions divided by the design effect (Kish 1965): the variance of the
    mean over clusters divided by that over independent questions, and never below 1. The variance
    over clusters is that of the ratio of a cluster's sum to its size. Few clusters, or values that
    are nearly all equal, say little about it. Therefore it is estimated as if one cluster of the
    size m' had been seen as well, whose questions all agree. Its design effect is m', the mean size
    of a cluster as its questions see it, ``sum(m^2) / sum(m)``. So 0 of 40 right in 10 clusters
    of 4 counts as 0 of 10.

    Args:
        values_Q: The values, from -1 to 1.
        clusters_Q: The cluster of each value, numbered from 0 on.
        assumed: The variance of a value that the number will be put beside, which is ``p (1 - p)``
            for a rate. None: the variance of the values themselves.

    Returns:
        The effective number. It is Q if all clusters have one question and the values are rates.
    """
    mean, count = values_Q.mean(), len(values_Q)
    sizes_C = np.bincount(clusters_Q)
    sums_C = np.bincount(clusters_Q, values_Q)
    typical = float(np.sum(sizes_C**2) / count)
    corrected = count / max(1, count - 1)
    alone = corrected * float(np.sum((values_Q - mean) ** 2))
    together = float(np.sum((sums_C - mean * sizes_C) ** 2))
    together *= len(sizes_C) / max(1, len(sizes_C) - 1)
    expected = alone if assumed is None else corrected * count * assumed
    prior = typical * _PRIOR
    return count * (expected + prior) / max(together + typical * prior, alone + prior)


def _wilson(p: float, number: float, z: float) -> tuple[float, float]:
    """The interval of Wilson (1927) for a rate ``p`` among ``number`` questions."""
    scale = 1 + z**2 / number
    centre = (p + z**2 / (2 * number)) / scale
    half = z * math.sqrt(p * (1 - p) / number + z**2 / (4 * number**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def _bootstrap(
    values_Q: Floats, clusters_Q: NDArray[np.int64], seed: int, level: float
) -> tuple[float, float] | tuple[None, None]:
    """The percentile bootstrap over clusters, as wide as a t interval of their number.

    The percentiles are those of Hesterberg (2015), without which it is too narrow for few clusters.
    """
    sizes_C, sums_C = np.bincount(clusters_Q), np.bincount(clusters_Q, values_Q)
    count = len(sizes_C)
    if count == 1:
        return None, None
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // count)
    means: list[Floats] = []
    for start in range(0, _RESAMPLES, rows):
        drawn_RC = random.integers(count, size=(min(rows, _RESAMPLES - start), count))
        means.append(sums_C[drawn_RC].sum(1) / sizes_C[drawn_RC].sum(1))
    tail = NormalDist().cdf(-_student(level, count - 1) * math.sqrt(count / (count - 1)))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _spearman(a_Q: Floats, b_Q: Floats) -> float:
    """Pearson's correlation of the ranks; NaN if all values of one side are equal."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (a_Q, b_Q)]
    norm = math.sqrt(float(ranks[0] @ ranks[0]) * float(ranks[1] @ ranks[1]))
    return float(ranks[0] @ ranks[1]) / norm if norm else math.nan


def _normal(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _student(level: float, freedom: int) -> float:
    return float(stdtrit(freedom, (1 + level) / 2))


def _checked(
    values: ArrayLike, clusters: Sequence[int] | None, level: float
) -> tuple[Floats, NDArray[np.int64]]:
    """The values and their clusters as arrays; the clusters are numbered without a gap."""
    values_Q = np.asarray(values, dtype=np.float64)
    if values_Q.ndim != 1 or not len(values_Q):
        raise ValueError(f"expected a list of at least one value, got the shape {values_Q.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    faulty = int(np.sum(~np.isfinite(values_Q)))
    if faulty:
        raise ValueError(
            f"expected finite values, got {faulty} of {len(values_Q)} that are infinite or NaN"
        )
    if clusters is None:
        return values_Q, np.arange(len(values_Q))
    if len(clusters) != len(values_Q):
        raise ValueError(
            f"need a cluster for each value, got {len(values_Q)} values and {len(clusters)} "
            "clusters"
        )
    return values_Q, np.unique(np.asarray(clusters), return_inverse=True)[1]
