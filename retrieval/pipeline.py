"""Retrieve N passages, rerank them, keep K of them with weights (GenPoE sec. 3.3.2).

What is ordinary: a query may find fewer than K passages, or none; one that is blank, or of which no
word is known, finds none. Weights are over what was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    """How passages are retrieved, reranked and weighted.

    Attributes:
        n: Passages retrieved for a query, and reranked if there is a reranker.
        weighting: "softmax" of the scores that ranked the passages kept (eq. 9), "uniform", or
            "auto": softmax of a reranker's scores, uniform without a reranker.
        temperature: The scores are divided by it before the softmax.
        batch_size: Queries whose passages are reranked, and the scores put on disk, at once.
        cache_dir: Where hits and scores are kept, by everything that made them; None: nowhere.

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
    """A retriever, a reranker or none, and the corpus that both are about.

    Args:
        corpus: The passages by id.
        retriever: What finds them.
        reranker: What orders them anew; None: they stay as they were found.
        settings: See there.
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
        """The same hits in the reranker's order, with its raw scores; ties as they were found.

        Args:
            queries: The queries.
            hits: What was retrieved for each of them.

        Returns:
            A list a query; without a reranker, the hits as they came.

        Raises:
            DataError: If a hit is not in the corpus.
            ValueError: If the reranker gives something else than a finite score a pair.
        """
        if self.reranker is None:
            return [list(found) for found in hits]
        ranked: list[list[Hit]] = []
        starts = range(0, len(queries), self.settings.batch_size)
        for start in progress(starts, "Reranking", len(queries), lambda: len(ranked)):
            part = slice(start, start + self.settings.batch_size)
            ranked.extend(self._rerank_batch(self.reranker, queries[part], hits[part]))
        return ranked

    def rank(self, queries: Sequence[str]) -> list[list[Hit]]:
        """At most N hits for each query, retrieved and reranked, best first."""
        return self.rerank(queries, self.retrieve(queries))

    def passages(self, hits: Sequence[Hit]) -> tuple[Passage, ...]:
        """The passages of hits.

        Raises:
            DataError: If one is not in the corpus.
        """
        return tuple([self._passage(hit.passage_id) for hit in hits])

    def weights(self, hits: Sequence[Hit]) -> tuple[float, ...]:
        """How much each of the hits that are kept counts; they sum to 1.

        Args:
            hits: Kept hits of one query, of `rank`, possibly none.
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
                f"{len(self.corpus)} of the corpus; give the corpus of which the index was built"
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
