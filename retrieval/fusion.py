"""Hybrid retrieval, which fuses the lists of several retrievers into one.

Reciprocal rank fusion (Cormack et al. 2009) uses the ranks alone. Weighted fusion uses the scores,
after scaling them to the same range. In both, a list adds nothing to a passage that it lacks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_positive, check_types
from plumbing.storage.hashing import digest
from retrieval.corpus.corpus import Corpus
from retrieval.retriever import Hit, IndexSettings, Retriever

METHODS = ("rrf", "weighted")
_FORMAT = 1  # version of the way that lists are fused; part of the fingerprint


def reciprocal_ranks(hits: Sequence[Hit], rank_constant: float = 60.0) -> list[float]:
    """``1 / (rank_constant + rank)`` for each hit; ranks count from 1 (Cormack et al. 2009)."""
    return [1 / (rank_constant + rank) for rank in range(1, len(hits) + 1)]


def scaled_scores(hits: Sequence[Hit]) -> list[float]:
    """The scores of a list, scaled so that the worst hit has 0 and the best has 1.

    If all scores are equal, each becomes 1. Scaling is needed because each retriever has its own
    scale, which also differs from query to query.
    """
    if not hits:
        return []
    scores = [hit.score for hit in hits]
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def fuse(
    lists: Sequence[Sequence[Hit]],
    weights: Sequence[float],
    points: Callable[[Sequence[Hit]], list[float]],
) -> list[Hit]:
    """Fuse several lists of hits into one.

    The new score of a passage is the weighted sum of the points that each list gives to it.

    Args:
        lists: Each retriever's hits for one query, best first.
        weights: The weight of each list.
        points: Computes the points for each hit of a list: `reciprocal_ranks` or `scaled_scores`.

    Returns:
        All passages of the lists, best first; ties are ordered by passage id.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for hits, weight in zip(lists, weights, strict=True):
        for hit, point in zip(hits, points(hits), strict=True):
            sums[hit.passage_id] += weight * point
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return [Hit(*item) for item in ranked]


@dataclass(frozen=True)
class Fusion:
    """Settings of a fusion.

    Attributes:
        method: "rrf" (reciprocal ranks) or "weighted" (scaled scores).
        weights: The weight of each retriever, by its name; null gives all the same weight.
        depth: The number of hits that each retriever is asked for. A search for more hits than this
            asks each retriever for that many.
        rank_constant: The constant of reciprocal ranks (60 in Cormack et al. 2009). The larger it
            is, the less the rank matters.

    Raises:
        ValueError: If a setting is mistyped or out of range.
    """

    method: str = "rrf"
    weights: Mapping[str, float] | None = None
    depth: int = 100
    rank_constant: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        check_choice("method", self.method, METHODS)
        check_positive(self, "depth")
        if not 0 <= self.rank_constant < math.inf:
            raise SettingValueError(
                "rank_constant",
                f"rank_constant must be a number from 0 on, got {self.rank_constant}",
            )
        for name, weight in (self.weights or {}).items():
            if not 0 <= weight < math.inf:
                raise SettingValueError(
                    f"weights.{name}",
                    f"a weight must be a number from 0 on, got {weight} for {name!r}",
                )

    def weights_of(self, names: Sequence[str]) -> list[float]:
        """The weights of the retrievers with these names, in the same order.

        Raises:
            ValueError: If there is no retriever, if the names of the weights differ from these
                names, or if all weights are 0.
        """
        if not names:
            raise ValueError("a fusion needs at least one retriever, got none; name some")
        if self.weights is None:
            return [1.0] * len(names)
        if set(self.weights) != set(names):
            raise SettingValueError(
                "weights",
                f"expected a weight for each of {', '.join(names)}, got weights for "
                f"{', '.join(self.weights) or 'none'}",
            )
        if not any(self.weights.values()):
            raise SettingValueError("weights", "at least one weight must be positive, got none")
        return [float(self.weights[name]) for name in names]

    def points(self, hits: Sequence[Hit]) -> list[float]:
        """The points that a list gives to each of its hits."""
        if self.method == "weighted":
            return scaled_scores(hits)
        return reciprocal_ranks(hits, self.rank_constant)


class FusedRetriever:
    """A retriever that asks several retrievers and fuses their hits.

    Args:
        retrievers: The retrievers by name, all over the same corpus. A retriever with the weight 0
            is not asked.
        fusion: The settings of the fusion; by default those of `Fusion`.

    Raises:
        ValueError: If there is no retriever, or if the weights do not match the retrievers.
    """

    def __init__(self, retrievers: Mapping[str, Retriever], fusion: Fusion | None = None) -> None:
        self.fusion = fusion or Fusion()
        weights = self.fusion.weights_of(list(retrievers))
        pairs = [pair for pair in zip(retrievers.values(), weights, strict=True) if pair[1] > 0]
        self.retrievers = [retriever for retriever, _ in pairs]
        self.weights = [weight for _, weight in pairs]

    @property
    def fingerprint(self) -> str:
        """Hash of the retrievers' fingerprints and of the fusion's settings."""
        parts = [retriever.fingerprint for retriever in self.retrievers]
        settings = [self.fusion.method, self.fusion.depth, self.fusion.rank_constant]
        return digest(["fusion", _FORMAT, parts, self.weights, settings])

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first, with the scores of `fuse`."""
        depth = max(k, self.fusion.depth)
        found = [retriever.search(queries, depth) for retriever in self.retrievers]
        return [
            fuse(lists, self.weights, self.fusion.points)[:k] for lists in zip(*found, strict=True)
        ]


@dataclass(frozen=True)
class HybridSettings:
    """Settings of a hybrid: a fusion of several retrievers, each with its own index.

    Attributes:
        retrievers: The settings of each retriever, by name.
        fusion: How their lists are fused.
        index_dir: The folder for the indexes of those retrievers that name no folder of their own.
            The index of such a retriever is in the subfolder with the retriever's name.

    Raises:
        ValueError: If there is no retriever, if the weights do not match the retrievers, or if a
            retriever has no folder for its index.
    """

    retrievers: Mapping[str, IndexSettings]
    fusion: Fusion = field(default_factory=Fusion)
    index_dir: str | Path | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if not self.retrievers:
            raise SettingValueError("retrievers", "a hybrid needs at least one retriever, got none")
        with mounted("fusion"):
            self.fusion.weights_of(list(self.retrievers))

        # The dataclass is frozen; only here do the retrievers get their folders.
        object.__setattr__(self, "retrievers", dict(map(self._with_folder, self.retrievers)))

    def _with_folder(self, name: str) -> tuple[str, IndexSettings]:
        part: Any = self.retrievers[name]
        if getattr(part, "index_dir", "") is not None:
            return name, part
        if self.index_dir is None:
            raise SettingValueError(
                "index_dir",
                f"the part {name!r} needs a folder for its index, got none",
                f"set {{}}, which holds a folder for each part, or the index_dir of {name!r}",
            )
        return name, replace(part, index_dir=Path(self.index_dir, name))

    def build(self, corpus: Corpus) -> dict[str, float]:
        """Build the index of each retriever, unless it exists already.

        Returns:
            The numbers of each index as ``<retriever>/<number>``, and ``bytes``, their total size.
        """
        parts: dict[str, dict[str, float]] = {}
        for name, settings in self.retrievers.items():
            with mounted(f"retrievers.{name}"):
                parts[name] = settings.build(corpus)
        total = sum(numbers["bytes"] for numbers in parts.values())
        each = {f"{name}/{key}": n for name, ns in parts.items() for key, n in ns.items()}
        return {"bytes": total, **each}

    def open(self, corpus: Corpus) -> FusedRetriever:
        """Open the index of each retriever, and fuse them."""
        opened: dict[str, Retriever] = {}
        for name, settings in self.retrievers.items():
            with mounted(f"retrievers.{name}"):
                opened[name] = settings.open(corpus)
        return FusedRetriever(opened, self.fusion)
