"""Intervals: their coverage at the edges and under clustering, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from qa.statistics import clusters_of, difference, estimate, over_runs, rank_correlation

LEAST = 0.93  # the least share of samples whose interval must hold the true value


def holds(interval: Sequence[float | None], truth: float) -> bool:
    _, low, high = interval
    assert low is not None
    assert high is not None
    return low <= truth <= high


@pytest.mark.parametrize("size", [1, 2, 40, 300])
def test_an_interval_of_a_rate_is_wilsons(size: int) -> None:
    for right in {0, 1, size // 3, size}:
        found = estimate([100.0] * right + [0.0] * (size - right), largest=100)
        wilson = scipy.stats.binomtest(right, size).proportion_ci(method="wilson")
        assert found == pytest.approx((100 * right / size, 100 * wilson.low, 100 * wilson.high))


def test_nothing_right_is_no_interval_without_a_width() -> None:
    assert estimate([0] * 40, largest=100) == pytest.approx((0, 0, 8.76), abs=0.01)
    assert estimate([100] * 40, largest=100) == pytest.approx((100, 91.24, 100), abs=0.01)
    assert difference([0] * 40, [0] * 40, largest=100) == pytest.approx((0, -6.6, 6.6), abs=0.01)
    assert difference([1] * 40, [0] * 40, largest=1) == pytest.approx((1, 0.86, 1), abs=0.01)


def test_an_interval_of_a_difference_is_that_of_bonett_and_price() -> None:
    a, b = [1] * 26 + [0] * 4 + [1] * 18, [0] * 26 + [1] * 4 + [1] * 18
    n, alone, other = 48 + 2, (26 + 1) / (48 + 2), (4 + 1) / (48 + 2)
    half = 1.959964 * np.sqrt((alone + other - (alone - other) ** 2) / n)
    middle = alone - other
    assert difference(a, b, largest=1) == pytest.approx((22 / 48, middle - half, middle + half))


@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
def test_intervals_of_rates_hold_the_truth(size: int, rate: float) -> None:
    rights = range(size + 1)
    held = [holds(estimate([1.0] * k + [0.0] * (size - k), largest=1), rate) for k in rights]
    assert np.dot(held, scipy.stats.binom.pmf(rights, size, rate)) >= LEAST


# The shares of the questions that the first method alone has right, and that the second has.
@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize(
    "alone", [(0.01, 0.0), (0.05, 0.0), (0.01, 0.01), (0.05, 0.01), (0.25, 0.25), (0.5, 0.1)]
)
def test_intervals_of_differences_hold_the_truth(size: int, alone: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    ours, theirs = alone
    held = []
    for count, other in random.multinomial(size, [ours, theirs, 1 - ours - theirs], 600)[:, :2]:
        steps = np.repeat([1.0, -1.0, 0.0], [count, other, size - count - other])
        found = difference(np.maximum(steps, 0), np.maximum(-steps, 0), largest=1)
        held.append(holds(found, ours - theirs))
    assert np.mean(held) >= LEAST


def clustered(
    random: np.random.Generator, sizes: Sequence[int], rate: float, alike: float
) -> np.ndarray:
    """Values of 0 and 1, cluster by cluster; two of a cluster have the correlation ``alike``."""
    odds = (1 - alike) / alike
    rates = random.beta(rate * odds, (1 - rate) * odds, len(sizes))
    return (random.random(sum(sizes)) < np.repeat(rates, sizes)).astype(float)


@pytest.mark.parametrize(
    ("sizes", "rate"), [([4] * 75, 0.05), ([4] * 75, 0.5), ([1, 2, 3, 9, 5, 4, 8] * 4, 0.2)]
)
def test_intervals_hold_the_truth_where_questions_share_a_passage(
    sizes: list[int], rate: float
) -> None:
    random = np.random.default_rng(1)
    numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
    naive, ours, unbounded, paired = [], [], [], []
    for _ in range(400):
        a, b = (clustered(random, sizes, rate, 0.6) for _ in "ab")
        naive.append(holds(estimate(a, largest=1), rate))
        ours.append(holds(estimate(a, numbers, 1), rate))
        paired.append(holds(difference(a, b, numbers, 1), 0))
    for _ in range(100):  # the bootstrap is dearer
        values = np.repeat(random.normal(size=len(sizes)), sizes)
        unbounded.append(holds(estimate(values, numbers), 0))
    assert np.mean(naive) < 0.88
    assert min(map(float, (np.mean(ours), np.mean(paired)))) >= LEAST
    assert np.mean(unbounded) >= 0.9  # of 100 samples


def test_few_clusters_say_little() -> None:
    ten = estimate([0] * 40, [i // 4 for i in range(40)], largest=1)
    assert ten == pytest.approx(estimate([0] * 10, largest=1))
    one = estimate([1, 0] * 20, [7] * 40, largest=1)
    assert one.low is not None
    assert one.low < 0.1  # one passage is one draw, however many questions are about it
    assert estimate([1, 2, 3], [0, 0, 0]) == (2, None, None)
    assert estimate([1, 2, 3], [0, 0, 0]).metrics("nll") == {"nll": 2}
    assert difference([1, 2], [2, 2], [0, 0]).low is None
    low, high = difference([1, 0], [0, 0], [0, 0], largest=1)[1:]
    assert low is not None
    assert high is not None
    assert high - low > 1.4


def test_a_single_question_has_a_wide_interval_or_none() -> None:
    assert estimate([1.0], largest=1) == pytest.approx((1, 0.207, 1), abs=1e-3)
    assert estimate([3.0]) == (3, None, None)
    assert over_runs([3.0]) == (3, None, None)


scores = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30
)


@given(scores)
def test_intervals_hold_the_mean_and_stay_in_bounds(rows: list[tuple[float, float, int]]) -> None:
    a, b, clusters = (list(column) for column in zip(*rows, strict=True))
    mean, low, high = estimate(a, clusters, 1)
    assert low is not None
    assert high is not None
    assert 0 <= low <= mean <= high <= 1
    ours, theirs = difference(a, b, clusters, 1), difference(b, a, clusters, 1)
    assert ours.low is not None
    assert ours.high is not None
    assert -1 <= ours.low <= ours.value <= ours.high <= 1
    assert (theirs.low, theirs.high) == pytest.approx((-ours.high, -ours.low))
    order = np.random.default_rng(0).permutation(len(a))
    shuffled = estimate(np.array(a)[order], [clusters[i] for i in order], 1)
    assert shuffled == pytest.approx((mean, low, high))


def test_shares_between_0_and_1_are_sharper_than_rates() -> None:
    f1, em = [0.4, 0.6] * 50, [0, 1] * 50
    (_, low, high), (_, lower, _) = (estimate(values, largest=1) for values in (f1, em))
    assert lower is not None
    assert low is not None
    assert high is not None
    assert lower < low < 0.5 < high
    assert high - low == pytest.approx(4 * 0.1 / 10, rel=0.3)  # 1.96 standard errors each way


def test_the_bootstrap_is_that_of_a_mean_and_follows_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = estimate(values, seed=1)
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, 399)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)
    assert estimate(values, seed=1) == (mean, low, high)
    assert estimate(values, seed=2) != (mean, low, high)


def test_the_bootstrap_in_chunks_draws_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = estimate(values, seed=1)
    monkeypatch.setattr("qa.statistics._CHUNK", 500)
    assert estimate(values, seed=1) == whole


def test_a_difference_cancels_what_questions_share() -> None:
    random = np.random.default_rng(0)
    hardness = random.normal(scale=10, size=400)
    found = difference(hardness + 0.5 + random.normal(scale=0.1, size=400), hardness)
    assert found == pytest.approx((0.5, 0.49, 0.51), abs=0.02)


def test_runs_of_several_seeds_have_a_t_interval() -> None:
    values = [3.0, 5.0, 4.0]
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, 2)
    assert over_runs(values) == pytest.approx((4, 4 - half, 4 + half))
    assert over_runs([0.0, 90.0], largest=100) == (45, 0, 100)


def test_questions_are_connected_by_their_gold_passages() -> None:
    gold = [["a"], ["b"], ["a", "c"], None, ["c"], [], ["d", "b"], []]
    assert clusters_of(gold) == [0, 1, 0, 2, 0, 3, 1, 4]
    assert clusters_of([["a"], ["b"], ["a", "b"]]) == [0, 0, 0]
    assert clusters_of([]) == []


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, "at least one value"),
        ([[1.0]], {}, "at least one value"),
        ([1.0], {"level": 1.0}, "level must be between"),
        ([1.0, float("nan")], {}, "got 1 of 2 that are infinite or NaN"),
        ([float("inf")], {"largest": 1}, "infinite"),
        ([1.5], {"largest": 1}, "expected values from 0 to 1, got 1.5"),
        ([-0.5], {"largest": 1}, "expected values from 0 to 1"),
        ([1.0, 1.0], {"clusters": [0]}, "got 2 values and 1 clusters"),
    ],
)
def test_what_has_no_interval_is_refused(
    values: list[float], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(values, **settings)  # type: ignore[arg-type]


def test_differences_of_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions on both sides, got 1 and 2 values"):
        difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one value"):
        difference([], [])
    with pytest.raises(ValueError, match="differences of values from 0 to 1, got one of 3"):
        difference([3.0], [0.0], largest=1)


def test_a_rank_correlation_is_spearmans_and_its_interval_holds_the_truth() -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=60)
    b = np.round(a + random.normal(size=60))  # with ties
    found = rank_correlation(a, b)
    assert found.value == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert found.low is not None
    assert found.high is not None
    assert 0.3 < found.low < found.value < found.high < 0.9
    assert rank_correlation(-a, b).value == pytest.approx(-found.value)
    held = 0
    for _ in range(40):
        x = random.normal(size=80)
        _, low, high = rank_correlation(x, random.normal(size=80))
        assert low is not None
        assert high is not None
        held += low <= 0 <= high
    assert held >= 35


def test_a_rank_correlation_over_clusters_is_wider() -> None:
    random = np.random.default_rng(0)
    a, b = (np.repeat(random.normal(size=20), 4) for _ in range(2))
    alone, together = (rank_correlation(a, b, c) for c in (None, [i // 4 for i in range(80)]))
    assert alone.value == together.value
    width = [
        each.high - each.low for each in (alone, together) if each.low is not None and each.high
    ]
    assert width[1] > 1.5 * width[0]
    assert rank_correlation([1, 2, 3], [1, 2, 3], [0, 0, 0]) == (1, None, None)
    for wrong, message in (([1, 1, 1], "values that differ"), ([1, 2], "pairs of values")):
        with pytest.raises(ValueError, match=message):
            rank_correlation([1, 2, 3], wrong)
