"""How good a ranking is: top-K accuracy as in DPR, and recall and reciprocal rank by passage id.

A ranking comes in as one flag a passage, best first; what the flag says, that the passage holds an
answer or that it is a gold one, is decided by whoever has the passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plumbing.mounts import SettingValueError


@dataclass(frozen=True)
class Judged:
    """A ranking of which each passage has been judged.

    Attributes:
        holds: Whether each passage holds an answer, best passage first; None where the answers are
            such that no passage can be said to hold one.
        gold: Whether each passage is a gold one.
        n_gold: How many gold passages there are, found or not; 0 where none is known.
    """

    holds: Sequence[bool] | None
    gold: Sequence[bool]
    n_gold: int


def accuracy_at(holds: Sequence[bool], k: int) -> float:
    """1.0 if any of the top K passages holds an answer, else 0.0 (Karpukhin et al. 2020)."""
    return float(any(holds[:k]))


def recall_at(gold: Sequence[bool], n_gold: int, k: int) -> float:
    """The share of the gold passages that is among the top K."""
    return sum(gold[:k]) / n_gold


def reciprocal_rank(gold: Sequence[bool]) -> float:
    """One over the rank of the first gold passage; 0.0 if the ranking holds none."""
    return next((1 / rank for rank, is_gold in enumerate(gold, start=1) if is_gold), 0.0)


def score_rankings(judged: Sequence[Judged], ks: Sequence[int]) -> dict[str, list[float]]:
    """The metrics of each question.

    Args:
        judged: The rankings, one a question.
        ks: The cut-offs K.

    Returns:
        ``accuracy@K`` and ``recall@K``, 0 to 100, for each K, and ``mrr``, 0 to 1: of each a value
        a question. Accuracy is over the questions of which it can be judged, recall and ``mrr``
        over those with gold passages; where there are none of these, the metric is left out.

    Raises:
        ValueError: If a cut-off is not positive, or there is none.
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
