"""Kinds of indexes that FAISS searches (Douze et al. 2024), and their settings.

* ``flat`` compares a query with every vector, and costs no second copy of them; exact.
* ``ivfpq`` compares it with compressed vectors (product quantisation) of some clusters (inverted
  lists): a small fraction of the time and of the memory; for millions of passages.
* ``hnsw`` walks a graph of near neighbours: the fastest, but it holds graph and vectors in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from plumbing.settings import check_positive, check_types

KINDS = ("flat", "ivfpq", "hnsw")


@dataclass(frozen=True)
class IVFPQ:
    """Settings of inverted lists with product quantisation.

    Attributes:
        lists: Clusters; None: the power of two next to 4·√N.
        probes: Clusters that a query looks into; only searching reads it.
        subvectors: Pieces that a vector is cut into; D must be a multiple.
        bits: Bits of a piece's code.
        train_rows: Vectors, evenly spread, that clusters and codes are learnt from, at most.
        refine: Candidates that are scored again by their own vectors, for each hit that is asked
            for; only searching reads it.
    """

    lists: int | None = None
    probes: int = 32
    subvectors: int = 48
    bits: int = 8
    train_rows: int = 262_144
    refine: int = 8

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "probes", "subvectors", "bits", "train_rows", "refine")
        if self.lists is not None:
            check_positive(self, "lists")


@dataclass(frozen=True)
class HNSW:
    """Settings of a graph of neighbours.

    Attributes:
        neighbours: Of each vector in the graph (twice as many on its lowest level).
        build_depth: Candidates while neighbours are sought.
        search_depth: Candidates of a query, at least; only searching reads it.
        deterministic: Whether it is built by one thread: equal bytes each time, but slower.
    """

    neighbours: int = 32
    build_depth: int = 200
    search_depth: int = 128
    deterministic: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "neighbours", "build_depth", "search_depth")
