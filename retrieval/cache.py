"""A retriever and a reranker that keep their results on disk, so that each is computed only once.

The key of a result contains everything that decides it. For a list of hits, this is the retriever's
fingerprint, the query and k. For a score, it is the reranker's fingerprint, the query and the whole
passage. A score therefore does not depend on which retriever found the passage, or on k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from plumbing.storage.log import EntryLog, cache_key
from retrieval.passage import Passage, passage_digest
from retrieval.rerank.reranker import Reranker
from retrieval.retriever import Hit, Retriever


class CachedRetriever:
    """A retriever that searches for each query only once.

    Args:
        retriever: The retriever that searches.
        folder: The folder of the cache. Several retrievers may share it.
    """

    def __init__(self, retriever: Retriever, folder: str | Path) -> None:
        self.retriever = retriever
        self.log = EntryLog(Path(folder) / f"hits-{cache_key(retriever.fingerprint)[:16]}.log")

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the retriever that searches."""
        return self.retriever.fingerprint

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The retriever's hits, from the cache where possible."""
        fingerprint = self.fingerprint
        keys = {query: cache_key(fingerprint, k, query) for query in queries}
        cached = self.log.read(keys.values())
        found = {
            query: [Hit(id, score) for id, score in cached[key][-1]]
            for query, key in keys.items()
            if key in cached
        }
        missing = [query for query in keys if query not in found]
        if missing:
            found |= zip(missing, self.retriever.search(missing, k), strict=True)
            # If the index was edited meanwhile, nobody knows which state the hits belong to.
            if self.fingerprint == fingerprint:
                self.log.append(
                    (keys[query], [[hit.passage_id, hit.score] for hit in found[query]])
                    for query in missing
                )
        return [found[query] for query in queries]


class CachedReranker:
    """A reranker that scores each pair of a query and a passage only once.

    Args:
        reranker: The reranker that scores.
        folder: The folder of the cache. Several rerankers may share it.
    """

    def __init__(self, reranker: Reranker, folder: str | Path) -> None:
        self.reranker = reranker
        self.log = EntryLog(Path(folder) / f"scores-{cache_key(reranker.fingerprint)[:16]}.log")

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the reranker that scores."""
        return self.reranker.fingerprint

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        """The reranker's scores, from the cache where possible.

        Raises:
            ValueError: If the reranker does not return one finite score for each pair.
        """
        keys = {query: cache_key(self.fingerprint, query) for query, _ in pairs}
        passages = {pair: passage_digest(pair[1]).hex()[:32] for pair in pairs}
        cached = self.log.read(keys.values())
        known: dict[str, dict[str, float]] = {query: {} for query in keys}
        for query, key in keys.items():
            for entry in cached.get(key, []):
                known[query] |= entry
        missing = [pair for pair, passage in passages.items() if passage not in known[pair[0]]]
        if missing:
            new: dict[str, dict[str, float]] = {}
            for pair, score in zip(missing, checked_scores(self.reranker, missing), strict=True):
                new.setdefault(pair[0], {})[passages[pair]] = score
                known[pair[0]][passages[pair]] = score
            self.log.append((keys[query], entry) for query, entry in new.items())
        return [known[pair[0]][passages[pair]] for pair in pairs]


def checked_scores(reranker: Reranker, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
    """Let a reranker score pairs, and check that it returns one finite number for each.

    Raises:
        ValueError: If it does not.
    """
    scores = [float(score) for score in reranker.score(pairs)]
    if len(scores) != len(pairs):
        raise ValueError(f"expected {len(pairs)} scores from the reranker, got {len(scores)}")
    for (query, passage), score in zip(pairs, scores, strict=True):
        if not math.isfinite(score):
            raise ValueError(
                f"the reranker gave {score} to passage {passage.id!r} for the query {query!r}; "
                "expected finite scores, so its weights may be damaged or its precision too low"
            )
    return scores
