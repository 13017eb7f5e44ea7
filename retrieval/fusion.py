"""Hybrid retrieval: the lists of several retrievers fused into one.

Reciprocal rank fusion (Cormack et al. 2009) looks at ranks alone, weighted fusion at scores that
were brought to one scale. Either way a passage that a list lacks gets nothing from that list.
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
_FORMAT = 1  # of how lists are fused: part of the fingerprint


def reciprocal_ranks(hits: Sequence[Hit], rank_constant: float = 60.0) -> list[float]:
    """``1 / (rank_constant + rank)`` of each hit, ranks from 1 (Cormack et al. 2009)."""
    return [1 / (rank_constant + rank) for rank in range(1, len(hits) + 1)]


def scaled_scores(hits: Sequence[Hit]) -> list[float]:
    """Scores brought to 0 … 1 over the list: its worst hit to 0, its best to 1; equal ones to 1.

    Retrievers score on scales of their own, which differ from query to query as well.
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
    """One list of everything in the lists, scored by the weighted sum of what each gives it.

    Args:
        lists: The hits of one query by each retriever, best first.
        weights: How much each list counts.
        points: What a list gives to each of its hits: `reciprocal_ranks` or `scaled_scores`.

    Returns:
        The hits, best first; ties by passage id.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for hits, weight in zip(lists, weights, strict=True):
        for hit, point in zip(hits, points(hits), strict=True):
            sums[hit.passage_id] += weight * point
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return [Hit(*item) for item in ranked]


@dataclass(frozen=True)
class Fusion:
    """How lists are fused.

    Attributes:
        method: "rrf" (reciprocal ranks) or "weighted" (scaled scores).
        weights: How much each retriever counts, by its name; null: all the same.
        depth: Hits asked of each retriever, if not more are asked of the fusion itself.
        rank_constant: Of reciprocal ranks; the larger, the flatter (60 in Cormack et al. 2009).

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
        """The weight of each of these retrievers.

        Raises:
            ValueError: If there is no retriever, the weights are of others, or all are 0.
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
        """What a list gives to each of its hits."""
        if self.method == "weighted":
            return scaled_scores(hits)
        return reciprocal_ranks(hits, self.rank_constant)


class FusedRetriever:
    """Several retrievers as one.

    Args:
        retrievers: The retrievers by name, all over the same corpus. One whose weight is 0 is not
            asked.
        fusion: How their lists are fused; default: `Fusion`'s.

    Raises:
        ValueError: If there is no retriever, or the weights do not fit them.
    """

    def __init__(self, retrievers: Mapping[str, Retriever], fusion: Fusion | None = None) -> None:
        self.fusion = fusion or Fusion()
        weights = self.fusion.weights_of(list(retrievers))
        pairs = [pair for pair in zip(retrievers.values(), weights, strict=True) if pair[1] > 0]
        self.retrievers = [retriever for retriever, _ in pairs]
        self.weights = [weight for _, weight in pairs]

    @property
    def fingerprint(self) -> str:
        """Hash of the parts' fingerprints and of the fusion's settings."""
        parts = [retriever.fingerprint for retriever in self.retrievers]
        settings = [self.fusion.method, self.fusion.depth, self.fusion.rank_constant]
        return digest(["fusion", _FORMAT, parts, self.weights, settings])

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first; see `fuse`."""
        depth = max(k, self.fusion.depth)
        found = [retriever.search(queries, depth) for retriever in self.retrievers]
        return [
            fuse(lists, self.weights, self.fusion.points)[:k] for lists in zip(*found, strict=True)
        ]


@dataclass(frozen=True)
class HybridSettings:
    """Settings of a fusion of retrievers that have indexes of their own.

    Attributes:
        retrievers: The settings of each, by name.
        fusion: How their lists are fused.
        index_dir: Where the index of a part is that names no folder of its own: in the folder
            called as the part.

    Raises:
        ValueError: If there is no retriever, the weights do not fit them, or a part has no folder.
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

        # Frozen for everyone else: the parts get their folders once.
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
        """Build each part's index unless it is there; their numbers, as ``<name>/<number>``."""
        parts: dict[str, dict[str, float]] = {}
        for name, settings in self.retrievers.items():
            with mounted(f"retrievers.{name}"):
                parts[name] = settings.build(corpus)
        total = sum(numbers["bytes"] for numbers in parts.values())
        each = {f"{name}/{key}": n for name, ns in parts.items() for key, n in ns.items()}
        return {"bytes": total, **each}

    def open(self, corpus: Corpus) -> FusedRetriever:
        """Open each part's index."""
        opened: dict[str, Retriever] = {}
        for name, settings in self.retrievers.items():
            with mounted(f"retrievers.{name}"):
                opened[name] = settings.open(corpus)
        return FusedRetriever(opened, self.fusion)
