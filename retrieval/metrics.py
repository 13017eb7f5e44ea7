"""Metrics of a ranking: DPR's top-K accuracy, and recall and reciprocal rank by passage id.

A ranking is given as one flag for each passage, best passage first. The caller, who has the
passages, decides the flag: it says either that the passage contains an answer, or that it is gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plumbing.mounts import SettingValueError


@dataclass(frozen=True)
class Judged:
    """The judgements of each passage of a ranking, best passage first.

    Attributes:
        holds: Whether each passage contains an answer. None if this cannot be judged, as for a
            yes/no question, whose answer is not a piece of the text.
        gold: Whether each passage is gold.
        n_gold: The number of gold passages of the question, including those that were not found;
            0 if none is known.
    """

    holds: Sequence[bool] | None
    gold: Sequence[bool]
    n_gold: int


def accuracy_at(holds: Sequence[bool], k: int) -> float:
    """1.0 if any of the top K passages contains an answer, else 0.0 (Karpukhin et al. 2020)."""
    return float(any(holds[:k]))


def recall_at(gold: Sequence[bool], n_gold: int, k: int) -> float:
    """The share of the gold passages that are among the top K."""
    return sum(gold[:k]) / n_gold


def reciprocal_rank(gold: Sequence[bool]) -> float:
    """One divided by the rank of the first gold passage; 0.0 if the ranking has none."""
    return next((1 / rank for rank, is_gold in enumerate(gold, start=1) if is_gold), 0.0)


def score_rankings(judged: Sequence[Judged], ks: Sequence[int]) -> dict[str, list[float]]:
    """Compute the metrics of each question.

    Args:
        judged: The rankings, one for each question.
        ks: The cut-offs K.

    Returns:
        For each metric a list with one value for each question: ``accuracy@K`` and ``recall@K``
        from 0 to 100 for each K, and ``mrr`` from 0 to 1. Accuracy covers the questions for which
        it can be judged; recall and ``mrr`` cover the questions with gold passages. A metric that
        covers no question is left out.

    Raises:
        ValueError: If there is no cut-off, or if one is not positive.
    """
    if not ks or min(ks) < 1:
        raise SettingValueError(
            "ks", f"expected cut-offs from 1 on, got {list(ks)}", "set {}, such as [1,5,20]"
        )
    answerable = [one.holds for one in judged if one.holds is not None]
    golden = [one for one in judged if one.n_gold]
    scores: dict[str, list[float]] = {}
    if answerable:
        scores |= {f"accuracy@{k}": [100 * accuracy_at(h, k) for h in answerable] for k in ks}
    if golden:
        scores |= {
            f"recall@{k}": [100 * recall_at(j.gold, j.n_gold, k) for j in golden] for k in ks
        }
        scores["mrr"] = [reciprocal_rank(j.gold) for j in golden]
    return scores
