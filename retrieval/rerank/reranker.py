"""The interface of a reranker, and the weights that follow from its scores (GenPoE eq. 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from plumbing.mounts import SettingValueError
from retrieval.passage import Passage


class Reranker(Protocol):
    """Scores pairs of a query and a passage."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the scores.

        It is part of the key under which scores are cached.
        """
        ...

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        """One raw score for each pair; higher is better.

        The scores must not have passed through a sigmoid, because eq. 9 needs the raw scores.
        """
        ...


def relevance(scores: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """The softmax of the raw scores of the top K passages (GenPoE eq. 9).

    Deviation: the paper has no temperature.

    Args:
        scores: K raw scores; K may be 0.
        temperature: The scores are divided by it, because rerankers have different scales.

    Returns:
        K weights that sum to 1.

    Raises:
        ValueError: If the temperature is not positive, or if a score is not finite.
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
