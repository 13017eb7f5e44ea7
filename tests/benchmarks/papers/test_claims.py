"""Verdicts, against cases that can be counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.papers.cells import Cell, Place
from benchmarks.papers.claims import FAILS, HOLDS, NOT_RUN, OPEN, judge, verdicts
from benchmarks.papers.entries import Claim, Entry, Metric, Option
from benchmarks.papers.results import Result


def entry(*claims: Claim, metrics: tuple[Metric, ...] = (Metric("em", "EM"),)) -> Entry:
    methods = [Option(name, name, {}) for name in ("ours", "theirs")]
    paper: Any = {("ours",): [30.0] * len(metrics), ("theirs",): [20.0] * len(metrics)}
    return Entry(
        target="genpoe/table9",
        title="A table",
        script="evaluate",
        overrides=[],
        axes={"method": methods},
        rows=["method"],
        metrics=metrics,
        paper=paper,
        paper_axes=["method"],
        reference={},
        claims=claims,
        note="",
        picture="",
        cases={},
    )


def answered(folder: Path, right: list[int], nll: float = 1.0) -> None:
    rows = [
        {"id": str(i), "question": "Q", "answers": ["a"], "gold_ids": [str(i)], "prediction": "a"}
        | {"em": em, "f1": em, "nll": nll + 0.01 * i}
        for i, em in enumerate(right)
    ]
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def results(tmp_path: Path, ours: Any, theirs: Any, nll: tuple[float, float] = (1, 1)) -> Any:
    found = []
    for name, right, own in (("ours", ours, nll[0]), ("theirs", theirs, nll[1])):
        place = Place({"method": Option(name, name, {})}, Cell(name, "evaluate", ()))
        if right is None:
            found.append(Result(place, None))
            continue
        if isinstance(right, dict):
            found.append(Result(place, tmp_path, right))
            continue
        answered(tmp_path / name, right, own)
        metrics = {"em": 100 * sum(right) / len(right), "nll": own}
        found.append(Result(place, tmp_path / name, metrics))
    return found


CLAIM = Claim("ours is better", {"method": ["ours"]}, {"method": ["theirs"]})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 2, HOLDS), (-2, -0.1, FAILS), (-1, 1, OPEN), (0.0, 1, OPEN), (None, None, OPEN)],
)
def test_the_interval_decides(low: float | None, high: float | None, expected: str) -> None:
    assert judge(low, high) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1] * 20, [0] * 20, HOLDS),
        ([0] * 20, [1] * 20, FAILS),
        ([1, 0] * 10, [0, 1] * 10, OPEN),
        ([1] * 20, None, NOT_RUN),
    ],
)
def test_answers_are_paired_by_question(
    tmp_path: Path, ours: Any, theirs: Any, expected: str
) -> None:
    (verdict,) = verdicts(entry(CLAIM), results(tmp_path, ours, theirs))
    assert verdict.verdict == expected
    assert verdict.paper == 10.0
    assert verdict.what == "ours over theirs in EM"
    if theirs:
        assert verdict.n == 20
        # Bonett and Price (2012) by hand, for pairs that all differ in the same direction: with a
        # pair more each way, 21 of 22 are better, so that the centre is 20 / 22.
        if expected == HOLDS:
            centre, n = 20 / 22, 22
            half = 1.959964 * ((1 - centre**2) / n) ** 0.5
            assert verdict.difference == 100
            assert verdict.low == pytest.approx(100 * (centre - half), abs=0.01)


def test_only_questions_that_both_answered_count(tmp_path: Path) -> None:
    (verdict,) = verdicts(entry(CLAIM), results(tmp_path, [1] * 20 + [0] * 20, [0] * 20))
    assert (verdict.n, verdict.difference, verdict.verdict) == (20, 100, HOLDS)


def test_less_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    metrics = (Metric("nll", "nll", lower=True),)
    found = results(tmp_path, [1] * 20, [1] * 20, nll=(1.0, 3.0))
    (verdict,) = verdicts(entry(CLAIM, metrics=metrics), found)
    assert verdict.verdict == HOLDS
    assert verdict.difference == pytest.approx(2)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low <= verdict.high
    assert verdict.paper == -10


def test_without_answers_the_intervals_are_compared(tmp_path: Path) -> None:
    metrics = (Metric("seconds", "seconds", lower=True),)

    def judged(ours: dict[str, float], theirs: dict[str, float]) -> Any:
        return verdicts(entry(CLAIM, metrics=metrics), results(tmp_path, ours, theirs))[0]

    fast = {"seconds": 1.0, "seconds_low": 0.9, "seconds_high": 1.2}
    slow = {"seconds": 5.0, "seconds_low": 4.0, "seconds_high": 6.0}
    wide = {"seconds": 5.0, "seconds_low": 1.0, "seconds_high": 9.0}
    assert judged(fast, slow).verdict == HOLDS
    assert (judged(fast, slow).low, judged(fast, slow).high) == pytest.approx((2.8, 5.1))
    assert judged(slow, fast).verdict == FAILS
    assert judged(fast, wide).verdict == OPEN
    alone = judged({"seconds": 1.0}, {"seconds": 5.0})
    assert (alone.verdict, alone.difference) == (OPEN, 4.0)
    assert "without an interval" in alone.why


def test_a_difference_that_the_command_measured_is_taken(tmp_path: Path) -> None:
    claim = Claim("ours gains", {"method": ["ours"]}, by=["gain", "gain_low", "gain_high"])
    gained = {"em": 3.0, "gain": 3.0, "gain_low": 1.0, "gain_high": 5.0, "n": 40}
    (verdict,) = verdicts(entry(claim), results(tmp_path, gained, None))
    assert (verdict.verdict, verdict.difference, verdict.n) == (HOLDS, 3.0, 40)
    ratio = Claim("ours gains", {"method": ["ours"]}, by=["gain", "gain_low", "gain_high"], above=2)
    (verdict,) = verdicts(entry(ratio), results(tmp_path, gained, None))
    assert (verdict.verdict, verdict.difference, verdict.low) == (OPEN, 1.0, -1.0)


def test_what_is_ours_is_told_apart(tmp_path: Path) -> None:
    pair = results(tmp_path, [1] * 9, [0] * 9)
    claims = [Claim("c", {"method": [name]}) for name in ("ours", "theirs")]
    control = replace(claims[1], ours=True)
    judged = verdicts(replace(entry(*claims, control), ours={"method": ["ours"]}), pair)
    assert [verdict.ours for verdict in judged] == [True, False, True]


def test_what_a_command_measured_is_named_as_what_it_is(tmp_path: Path) -> None:
    one = results(tmp_path, {"gain": 3.0}, {})
    claim = Claim("c", {"method": ["ours"]}, by=["gain", "low", "high"], what="a gain in EM")
    (verdict,) = verdicts(entry(claim), one)
    assert verdict.what == "ours: a gain in EM"


def test_a_metric_that_the_questions_do_not_have_is_no_missing_cell(tmp_path: Path) -> None:
    metrics = (Metric("acc", "ACC"),)
    found = results(tmp_path, [1] * 20, [0] * 20)
    assert verdicts(entry(CLAIM, metrics=metrics), found) == []
    found = results(tmp_path / "more", None, [0] * 20)
    (verdict,) = verdicts(entry(CLAIM, metrics=metrics), found)
    assert verdict.verdict == NOT_RUN


def test_a_claim_is_made_for_every_label_that_it_leaves_open(tmp_path: Path) -> None:
    claim = Claim("ours is better", {"method": ["ours"]}, {"method": ["ours", "theirs"]})
    found = verdicts(entry(claim), results(tmp_path, None, None))
    assert [verdict.what for verdict in found] == ["ours in EM", "ours over theirs in EM"]
    assert {verdict.verdict for verdict in found} == {NOT_RUN}
