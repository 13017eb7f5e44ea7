"""Rerankers: a relevance score for a question and a passage, and eq. 9's weights from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from plumbing.mounts import SettingValueError
from retrieval.passage import Passage


class Reranker(Protocol):
    """Scores (query, passage) pairs."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the scores: the key of a cache."""
        ...

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        """One raw score a pair, higher is better; never squashed by a sigmoid (eq. 9 needs it)."""
        ...


def relevance(scores: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """Softmax of the top K passages' raw scores (GenPoE eq. 9).

    Args:
        scores: K raw scores, possibly none.
        temperature: Scores are divided by it; rerankers differ in scale.

    Returns:
        K weights that sum to 1.

    Raises:
        ValueError: If the temperature is not positive or a score is not finite.
    """
    if not temperature > 0:
        raise SettingValueError("temperature", f"temperature must be positive, got {temperature}")
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"expected finite scores, got {list(scores)}")
    if not scores:
        return ()
    highest = max(scores)
    powers = [math.exp((score - highest) / temperature) for score in scores]
    total = sum(powers)
    return tuple(power / total for power in powers)
