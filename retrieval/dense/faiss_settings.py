"""The kinds of indexes that FAISS searches (Douze et al. 2024), and their settings.

* ``flat`` compares a query with every vector. It is exact, and needs no second copy of the vectors.
* ``ivfpq`` compares a query with the compressed vectors (product quantisation) of a few clusters
  (inverted lists). It needs a small fraction of the time and memory, for millions of passages.
* ``hnsw`` walks through a graph of near neighbours. It is the fastest, but keeps the graph and the
  vectors in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from plumbing.settings import check_positive, check_types

KINDS = ("flat", "ivfpq", "hnsw")


@dataclass(frozen=True)
class IVFPQ:
    """Settings of inverted lists with product quantisation.

    Attributes:
        lists: The number of clusters; None for the power of two closest to 4·√N.
        probes: The number of clusters that a query searches. It may differ from search to search.
        subvectors: The number of pieces that a vector is cut into. It must divide D.
        bits: The number of bits of each piece's code.
        train_rows: The largest number of vectors, spread evenly over all rows, that the clusters
            and codes are learnt from.
        refine: How many candidates are scored again by their exact vectors, for each hit that is
            asked for. It may differ from search to search.
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
        neighbours: The number of neighbours of each vector in the graph; the lowest level has twice
            as many.
        build_depth: The number of candidates that are kept while a vector's neighbours are sought.
        search_depth: The smallest number of candidates that are kept for a query. It may differ
            from search to search.
        deterministic: Whether one thread builds the graph. This gives the same bytes each time, but
            takes longer.
    """

    neighbours: int = 32
    build_depth: int = 200
    search_depth: int = 128
    deterministic: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "neighbours", "build_depth", "search_depth")
