"""Questions in groups of equal size, by how uncertain the backbone is about them (DMoE Table 5).

The paper sorts its questions "by the base model's token uncertainty before expert activation" and
cuts them into five groups of 60. It does not say how the uncertainty of a question is made of
those of its tokens, so that is a setting here. The tokens that count are those that the backbone
predicts alone: all up to and including the first that triggers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.evaluation.evaluate import SCALE
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import Predictions
from qa.statistics import clusters_of, rank_correlation

# How the uncertainty of a question is made of those of its tokens. A threshold of the trigger
# compares with the largest.
MADE_OF: dict[str, Callable[[list[float]], float]] = {
    **{"mean": fmean, "max": max},
    "first": lambda values: values[0],
}


@dataclass(frozen=True)
class Bin:
    """A group of questions about which the backbone is nearly equally uncertain.

    Attributes:
        ids: The ids of the questions.
        low: The smallest uncertainty of a question of the group, in nats.
        high: The largest.
    """

    ids: Sequence[str]
    low: float
    high: float


def in_bins(
    runs: Mapping[str, Predictions],
    baseline: str,
    count: int | None,
    of: str = "mean",
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float] | float]]:
    """Score runs in groups of questions, by how uncertain the backbone is in one of the runs.

    Args:
        runs: The runs, by their labels.
        baseline: The label of the run that says how uncertain the backbone is, and with which the
            others are compared.
        count: The number of groups; None: there are none, and the result is empty.
        of: As in `uncertainties`.
        seed: The seed of the bootstrap.

    Returns:
        For each label the metrics of `binned`, by the number of the group from "1" on, and those of
        `alignment`.

    Raises:
        DataError: If the baseline does not say how uncertain its tokens are, or if a run answered
            other questions.
        SettingValueError: If there can be no such groups.
    """
    if count is None:
        return {}
    uncertainty = uncertainties(runs[baseline], of)
    bins = bins_of(uncertainty, count)
    return {
        label: {
            **{
                str(number): found
                for number, found in enumerate(binned(run, runs[baseline], bins, seed), start=1)
            },
            **alignment(run, uncertainty, seed),
        }
        for label, run in runs.items()
    }


def uncertainties(run: Predictions, of: str = "mean") -> dict[str, float]:
    """The uncertainty of the backbone alone about each question, in nats.

    Args:
        run: An evaluation with ``method=dmoe``, whichever its trigger. With ``trigger=never`` all
            tokens of the backbone's own answer count.
        of: Which of the tokens' uncertainties counts, a key of `MADE_OF`.

    Raises:
        DataError: If the run does not say how uncertain its tokens are.
    """
    found: dict[str, float] = {}
    for id, line in run.questions.items():
        if line.decoding is None:
            raise DataError(
                f"{line.where}: expected the uncertainty of each token, which method=dmoe writes; "
                "take a run of it as the baseline (with trigger=never it is the backbone's)"
            )
        found[id] = MADE_OF[of](line.decoding.uncertainty)
    return found


def bins_of(uncertainty: dict[str, float], count: int) -> list[Bin]:
    """Sort questions by their uncertainty, and cut them into groups of equal size.

    Args:
        uncertainty: The uncertainty of each question, by its id. Equal ones are sorted by the id.
        count: The number of groups. If they cannot all be of one size, the first are larger by one.

    Returns:
        The groups, from the least uncertain to the most uncertain.

    Raises:
        SettingValueError: If there are fewer than two groups, or fewer questions than groups.
    """
    if not 2 <= count <= len(uncertainty):
        raise SettingValueError(
            "bins",
            f"bins must be between 2 and the number of questions, {len(uncertainty)}, got {count}",
        )
    ids = sorted(uncertainty, key=lambda id: (uncertainty[id], id))
    groups = [[ids[i] for i in group] for group in np.array_split(np.arange(len(ids)), count)]
    return [Bin(group, uncertainty[group[0]], uncertainty[group[-1]]) for group in groups]


def binned(
    run: Predictions, baseline: Predictions, bins: Sequence[Bin], seed: int = 0
) -> list[dict[str, float]]:
    """Score a run in each group, and say how often it triggered there.

    Args:
        run: The run.
        baseline: The run with which it is compared, question by question; it may be the same.
        bins: The groups.
        seed: The seed of the bootstrap.

    Returns:
        For each group ``uncertainty_low`` and ``uncertainty_high`` in nats, ``n``, the scores with
        their intervals, the differences from the baseline as ``<score>_gain`` with their intervals,
        and, if the run has them, ``trigger_rate`` and ``triggered_questions`` in percent.

    Raises:
        DataError: If the two runs answered other questions.
    """
    found = []
    for group in bins:
        part, other = (_part(each, group.ids) for each in (run, baseline))
        compared = differences(part, other, seed) if run is not baseline else {}
        gains = {
            key.replace(name, f"{name}_gain", 1): compared[key]
            for name in SCALE
            for key in (name, f"{name}_low", f"{name}_high")
            if key in compared
        }
        found.append(
            {
                "uncertainty_low": group.low,
                "uncertainty_high": group.high,
                "n": len(part.questions),
                **part.summary(seed),
                **gains,
                **_triggers(part),
            }
        )
    return found


def alignment(run: Predictions, uncertainty: dict[str, float], seed: int = 0) -> dict[str, float]:
    """How closely a run's scores follow the backbone's certainty, over single questions.

    Returns:
        ``<score>_certainty``, Spearman's rank correlation of the score with the negated
        uncertainty, between -1 and 1, with its 95 % interval, for each score that varies. EM and F1
        are above 0 if uncertain questions are answered worse; the nll is then below 0.
    """
    lines = [run.questions[id] for id in uncertainty]
    clusters = clusters_of([line.gold_ids for line in lines])
    certainty = [-value for value in uncertainty.values()]
    found: dict[str, float] = {}
    for name in SCALE:
        if all(name in line.scores for line in lines):
            scores = [line.scores[name] for line in lines]
            if len(set(scores)) > 1 and len(set(certainty)) > 1:
                rho = rank_correlation(certainty, scores, clusters, seed)
                found |= rho.metrics(f"{name}_certainty")
    return found


def _part(run: Predictions, ids: Sequence[str]) -> Predictions:
    lacking = [id for id in ids if id not in run.questions]
    if lacking:
        raise DataError(
            f"{run.path}: expected the questions of the run that is sorted, but {lacking[0]!r} is "
            "missing; evaluate both with the same data, split, limit and sample_seed"
        )
    return run.part(ids)


def _triggers(part: Predictions) -> dict[str, float]:
    decoded = [line.decoding for line in part.questions.values() if line.decoding is not None]
    if len(decoded) < len(part.questions):
        return {}
    return {
        "trigger_rate": 100 * sum(d.triggers for d in decoded) / sum(d.tokens for d in decoded),
        "triggered_questions": 100 * fmean(d.triggers > 0 for d in decoded),
    }
