"""What a paper says is better than what, and if it holds here.

Two cells that kept their answers are compared question by question, on the questions that both
were asked. Where there are no answers, such as for times, the intervals of the two cells are
compared, if they have some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.papers.entries import Claim, Entry, Metric
from benchmarks.papers.results import Result
from qa.evaluation.evaluate import SCALE
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import read_predictions
from qa.statistics import Estimate

HOLDS = "holds"
FAILS = "does not hold"
OPEN = "cannot be told"
NOT_RUN = "not run"

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """A claim about two cells, and what became of it.

    Attributes:
        says: The claim in the words of the entry.
        what: The two cells and the metric, such as "GenPoE over MEMIT in EM (bios)".
        verdict: `HOLDS`, `FAILS`, `OPEN` or `NOT_RUN`.
        difference: How much better the first is, positive if it is; None without two results.
        low: The lower end of its 95 % interval; None if there is none.
        high: The upper end.
        n: The number of questions that both answered; None without answers.
        paper: The difference between the paper's numbers of the two; None if it has not both.
        why: How the verdict came about.
        ours: Whether it is about something of ours, and no claim of the paper.
    """

    says: str
    what: str
    verdict: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    paper: float | None = None
    why: str = ""
    ours: bool = False


def judge(low: float | None, high: float | None) -> str:
    """The verdict on a difference that should be positive, by its 95 % interval."""
    if low is None or high is None:
        return OPEN
    if low > 0:
        return HOLDS
    return FAILS if high < 0 else OPEN


def verdicts(entry: Entry, results: Sequence[Result]) -> list[Verdict]:
    """The verdicts on all claims of an entry.

    A claim in a metric that neither of the two cells has, although both were run, has none.

    Args:
        entry: The entry.
        results: All places of its table.
    """
    by_labels = {_key(result.place.labels): result for result in results}
    metrics = {metric.name: metric for metric in entry.metrics}
    found = []
    for claim in entry.claims:
        for metric in claim.metrics or [entry.metrics[0].name]:
            for one, other in _pairs(entry, claim):
                pair = by_labels[_key(one)], by_labels[_key(other)]
                if not claim.by and all(_lacks(each, metrics[metric]) for each in pair):
                    continue  # such as EM of questions that are answered with yes or no
                verdict = _verdict(entry, claim, metrics[metric], *pair)
                found.append(replace(verdict, ours=claim.ours or _is_ours(entry, one)))
    return found


def _is_ours(entry: Entry, labels: Labels) -> bool:
    """Whether what is better is ours, and not the paper's."""
    return any(labels[axis] in some for axis, some in entry.ours.items())


def _lacks(result: Result, metric: Metric) -> bool:
    """Whether a cell was run, and has no such metric."""
    return result.folder is not None and not result.values(metric)


def _key(labels: Labels) -> tuple[str, ...]:
    return tuple(labels.values())


def _pairs(entry: Entry, claim: Claim) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The labels of the two cells of each claim; without ``than`` both are the same."""
    every = {axis: [option.label for option in options] for axis, options in entry.axes.items()}
    firsts = {axis: claim.better.get(axis, claim.where.get(axis, every[axis])) for axis in every}
    for better in product(*firsts.values()):
        one = dict(zip(every, better, strict=True))
        for than in product(*claim.than.values()):
            other = one | dict(zip(claim.than, than, strict=True))
            yield {axis: one[axis] for axis in every}, {axis: other[axis] for axis in every}


def _verdict(entry: Entry, claim: Claim, metric: Metric, one: Result, other: Result) -> Verdict:
    labels, others = one.place.labels, other.place.labels
    what = _what(entry, claim, metric, labels, others)
    sign = -1.0 if metric.lower else 1.0
    numbers = [entry.papers(some, metric)[0] for some in (labels, others)]
    paper = None
    if None not in numbers and labels != others:
        first, second = (float(number or 0) for number in numbers)
        paper = sign * (first - second)
    if claim.by:
        found = [one.metrics.get(one.place.metric(name)) for name in claim.by]
        value, low, high = (None if each is None else each - claim.above for each in found)
        if value is None:
            return Verdict(claim.says, what, NOT_RUN, paper=paper)
        why = "the difference that the command itself measured"
        n = None if one.n is None else int(one.n)
        return Verdict(claim.says, what, judge(low, high), value, low, high, n, paper, why)
    if not (one.values(metric) and other.values(metric)):
        return Verdict(claim.says, what, NOT_RUN, paper=paper)
    difference, n, why = _compare(metric, one, other)
    low, high = difference.low, difference.high
    return Verdict(claim.says, what, judge(low, high), difference.value, low, high, n, paper, why)


def _what(entry: Entry, claim: Claim, metric: Metric, one: Labels, other: Labels) -> str:
    """The two cells and the metric in words; labels that all cells share are left out."""
    varied = [axis for axis in entry.axes if one[axis] != other[axis]]
    if not varied:
        varied = list(claim.better)
    first, second = (" ".join(some[axis] for axis in varied) for some in (one, other))
    rest = [one[axis] for axis, options in entry.axes.items() if axis not in varied]
    about = f" ({', '.join(rest)})" if rest else ""
    over = f"{first} over {second}" if first != second else first
    return f"{over}: {claim.what}{about}" if claim.what else f"{over} in {metric.heading}{about}"


def _compare(metric: Metric, one: Result, other: Result) -> tuple[Estimate, int | None, str]:
    """How much better the first result is, with its interval."""
    score = metric.name.rpartition("/")[2]
    paths = [result.predictions(metric.name) for result in (one, other)]
    sign = -1.0 if metric.lower else 1.0
    if score in SCALE and paths[0] is not None and paths[1] is not None:
        ours, theirs = (read_predictions(path) for path in paths if path is not None)
        found = differences(ours, theirs, common=True)
        if score in found:
            ends = (found.get(f"{score}_low"), found.get(f"{score}_high"))
            low, high = (None if end is None else sign * end for end in ends)
            if sign < 0:
                low, high = high, low
            return Estimate(sign * found[score], low, high), int(found["n"]), "paired by question"
    a, b = one.values(metric), other.values(metric)
    value = sign * (a["value"] - b["value"])
    if {"low", "high"} <= a.keys() & b.keys():
        low, high = a["low"] - b["high"], a["high"] - b["low"]
        low, high = (low, high) if sign > 0 else (-high, -low)
        return Estimate(value, low, high), None, "by the intervals of the two"
    return Estimate(value, None, None), None, "single measurements without an interval"


def verdict_cells(verdict: Verdict) -> list[str]:
    """A verdict as a row of a table: what is compared, by how much, the paper, n, the verdict."""
    measured = _signed(verdict.difference)
    if verdict.low is not None and verdict.high is not None:
        measured += f" ({_signed(verdict.low)} … {_signed(verdict.high)})"
    n = "" if verdict.n is None else str(verdict.n)
    return [verdict.what, measured, _signed(verdict.paper), n, verdict.verdict]


def _signed(value: float | None) -> str:
    """A difference with its sign and about three digits; nothing if there is none."""
    if value is None:
        return ""
    return f"{value:+.1f}" if abs(value) >= 10 or value == 0 else f"{value:+.2g}"
