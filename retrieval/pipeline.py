"""Retrieves N passages, reranks them, and weights the K that are kept (GenPoE sec. 3.3.2).

A query may find fewer than K passages; this is not an error. A blank query, or one without any word
that the index knows, finds none. The weights are computed over the passages that were found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.settings import check_choice, check_positive, check_types
from plumbing.storage.jsonl import DataError
from retrieval.cache import CachedReranker, CachedRetriever, checked_scores
from retrieval.passage import Passage
from retrieval.rerank.reranker import Reranker, relevance
from retrieval.retriever import Hit, Retriever

WEIGHTINGS = ("auto", "softmax", "uniform")


@dataclass(frozen=True)
class PipelineSettings:
    """Settings for retrieving, reranking and weighting passages.

    Attributes:
        n: The number of passages that are retrieved for a query, and reranked if there is a
            reranker.
        weighting: "softmax" of the scores of the passages that are kept (eq. 9), "uniform", or
            "auto", which means softmax with a reranker and uniform without one.
        temperature: The scores are divided by it before the softmax.
        batch_size: The number of queries whose passages are reranked at once. Their scores are
            cached after each batch.
        cache_dir: The folder that caches hits and scores (see `retrieval.cache`); None for no
            cache.

    Raises:
        ValueError: If a setting is mistyped or out of range.
    """

    n: int = 50
    weighting: str = "auto"
    temperature: float = 1.0
    batch_size: int = 32
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "n", "batch_size")
        check_choice("weighting", self.weighting, WEIGHTINGS)
        if not 0 < self.temperature < math.inf:
            raise SettingValueError(
                "temperature", f"temperature must be positive, got {self.temperature}"
            )


class Pipeline:
    """A retriever, an optional reranker, and the corpus that they search.

    Args:
        corpus: The passages by id.
        retriever: Finds the passages.
        reranker: Puts them into a new order; None keeps the retriever's order.
        settings: The settings; by default those of `PipelineSettings`.
    """

    def __init__(
        self,
        corpus: Mapping[str, Passage],
        retriever: Retriever,
        reranker: Reranker | None = None,
        settings: PipelineSettings | None = None,
    ) -> None:
        self.corpus = corpus
        self.settings = settings or PipelineSettings()
        given = self.settings.cache_dir
        folder = None if given is None else Path(given).expanduser()
        self.retriever = CachedRetriever(retriever, folder) if folder else retriever
        self.reranker = CachedReranker(reranker, folder) if folder and reranker else reranker

    def retrieve(self, queries: Sequence[str]) -> list[list[Hit]]:
        """At most N hits for each query, best first, with the retriever's scores."""
        distinct = list(dict.fromkeys(query for query in queries if query.strip()))
        found = self.retriever.search(distinct, self.settings.n) if distinct else []
        hits = dict(zip(distinct, found, strict=True))
        return [hits.get(query, []) for query in queries]

    def rerank(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> list[list[Hit]]:
        """Sort hits by the reranker's scores.

        Args:
            queries: The queries.
            hits: The hits of each query.

        Returns:
            For each query its hits with the reranker's raw scores, best first; ties keep the order
            of ``hits``. Without a reranker, the hits are returned unchanged.

        Raises:
            DataError: If a hit is not in the corpus.
            ValueError: If the reranker does not return one finite score for each pair.
        """
        if self.reranker is None:
            return [list(found) for found in hits]
        ranked: list[list[Hit]] = []
        starts: Iterable[int] = range(0, len(queries), self.settings.batch_size)
        if len(queries) > self.settings.batch_size:
            starts = progress(starts, "Reranking", len(queries), lambda: len(ranked))
        for start in starts:
            part = slice(start, start + self.settings.batch_size)
            ranked.extend(self._rerank_batch(self.reranker, queries[part], hits[part]))
        return ranked

    def rank(self, queries: Sequence[str]) -> list[list[Hit]]:
        """At most N hits for each query, retrieved and reranked, best first."""
        return self.rerank(queries, self.retrieve(queries))

    def passages(self, hits: Sequence[Hit]) -> tuple[Passage, ...]:
        """The passages that hits refer to.

        Raises:
            DataError: If one of them is not in the corpus.
        """
        return tuple([self._passage(hit.passage_id) for hit in hits])

    def weights(self, hits: Sequence[Hit]) -> tuple[float, ...]:
        """The weights of the hits that are kept; they sum to 1.

        Args:
            hits: Those hits of one query that are kept from `rank`; there may be none.
        """
        weighting = self.settings.weighting
        if weighting == "softmax" or (weighting == "auto" and self.reranker is not None):
            return relevance([hit.score for hit in hits], self.settings.temperature)
        return (1 / len(hits),) * len(hits) if hits else ()

    def _passage(self, id: str) -> Passage:
        try:
            return self.corpus[id]
        except KeyError as error:
            raise DataError(
                f"the retriever found the passage {id!r}, which is not among the "
                f"{len(self.corpus)} of the corpus; give the corpus that the index was built from"
            ) from error

    def _rerank_batch(
        self, reranker: Reranker, queries: Sequence[str], hits: Sequence[Sequence[Hit]]
    ) -> list[list[Hit]]:
        pairs = [
            (query, passage)
            for query, found in zip(queries, hits, strict=True)
            for passage in self.passages(found)
        ]
        scores = iter(checked_scores(reranker, pairs) if pairs else [])
        scored = [[Hit(hit.passage_id, next(scores)) for hit in found] for found in hits]
        return [sorted(found, key=lambda hit: -hit.score) for found in scored]
