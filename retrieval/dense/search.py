"""Searches by vectors: FAISS finds candidates, which are then scored again exactly and sorted.

FAISS's own scores change in their last digits with the number of queries that are asked at once,
and chance decides which of several equal passages it returns. Here a score is the inner product of
the stored vectors, summed in float64 and rounded to float32. Rows with equal scores are sorted by
their number.

Shapes: Q queries, D dimensions, C candidates of a query, K hits.
"""

from __future__ import annotations

import numpy as np

from retrieval.dense.embeddings import Embeddings
from retrieval.dense.faiss_index import VectorIndex

_SPARE = 16  # candidates beyond those that are asked for; few ties are longer
_AT_ONCE = 1 << 20  # numbers of the candidates' vectors in memory: 8 MB, which fit into the cache
_QUERIES = 1024  # queries that are searched at once


class VectorSearch:
    """Finds the best rows for the vectors of questions.

    Args:
        embeddings: The vectors of all rows.
        index: Finds candidates among the rows.
        removed: The rows that were removed, sorted.
        refine: How many candidates are scored again for each hit that is asked for.
    """

    def __init__(
        self, embeddings: Embeddings, index: VectorIndex, removed: np.ndarray, refine: int = 1
    ) -> None:
        self._embeddings, self._index, self._refine = embeddings, index, refine
        self._removed = removed
        self.live = embeddings.rows - len(removed)

    def search(self, queries_QD: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find at most ``k`` hits for each query.

        Args:
            queries_QD: The queries' vectors, float32.
            k: The number of hits, at least 1.

        Returns:
            For each query the rows and the scores of its hits, best first.
        """
        if not self.live:
            return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries_QD)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(queries_QD), _QUERIES):
            found += self._search(queries_QD[start : start + _QUERIES], k)
        return found

    def _search(self, queries_QD: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Search, and ask for more candidates until the hits of each query are certain."""
        k = min(k, self.live)
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(queries_QD)
        most = min(self._embeddings.rows, self._index.most or self._embeddings.rows)
        count = (k * self._refine + _SPARE) * self._embeddings.rows // self.live
        width = 1
        pending = np.arange(len(queries_QD))
        while len(pending):
            count = min(count, most)
            asked_QD = queries_QD[pending]
            rough_QC, rows_QC = self._index.candidates(asked_QD, count, width)
            scores_QC, slack_Q = self._exact(asked_QD, rows_QC)
            order_QK = np.lexsort((rows_QC, -scores_QC), axis=-1)[:, :k]
            rows_QK = np.take_along_axis(rows_QC, order_QK, axis=1)
            scores_QK = np.take_along_axis(scores_QC, order_QK, axis=1)
            # The hits are certain if no row outside the candidates can reach the last hit's score.
            outside_Q = rough_QC[:, -1] + slack_Q if self._index.exact else -np.inf
            # If the lists that were searched have fewer than k live rows, more lists are searched.
            short_Q, found_Q = rows_QC[:, -1] < 0, np.isfinite(scores_QK[:, -1])
            whole = width >= self._index.widest
            exhausted_Q = np.where(short_Q, found_Q | whole, count == most)
            settled_Q = exhausted_Q | (scores_QK[:, -1] > outside_Q)
            for place in np.flatnonzero(settled_Q).tolist():
                live_K = np.isfinite(scores_QK[place])
                found[pending[place]] = rows_QK[place][live_K], scores_QK[place][live_K]
            pending, count, width = pending[~settled_Q], count * 4, width * 4
        return found

    def _exact(self, queries_QD: np.ndarray, rows_QC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The exact scores of candidates, and a bound on the error of each query's rough scores.

        A removed row, or a row of -1, which stands for no candidate, scores minus infinity.
        """
        scores_QC = np.empty(rows_QC.shape, np.float32)
        norms_Q = np.empty(len(queries_QD))
        step = max(1, _AT_ONCE // (rows_QC.shape[1] * queries_QD.shape[1]))
        for start in range(0, len(queries_QD), step):
            part = slice(start, start + step)
            rows = np.maximum(rows_QC[part], 0)
            vectors = self._embeddings.vectors(rows.ravel()).astype(np.float64)
            vectors = vectors.reshape(*rows.shape, -1)
            queries = queries_QD[part, :, None].astype(np.float64)
            scores_QC[part] = np.matmul(vectors, queries)[..., 0]
            norms_Q[part] = np.sqrt(np.einsum("qcd,qcd->qc", vectors, vectors).max(axis=1))
        scores_QC[(rows_QC < 0) | self._is_removed(rows_QC)] = -np.inf
        # A bound on the error of a float32 sum of D products, in both directions (Higham 2002,
        # sec. 3.1).
        slack_Q = queries_QD.shape[1] * 2.0**-23 * np.linalg.norm(queries_QD, axis=1) * norms_Q
        return scores_QC, slack_Q

    def _is_removed(self, rows_QC: np.ndarray) -> np.ndarray:
        if not len(self._removed):
            return np.zeros(rows_QC.shape, bool)
        places = np.searchsorted(self._removed, rows_QC)
        return self._removed[np.minimum(places, len(self._removed) - 1)] == rows_QC
