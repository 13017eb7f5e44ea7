"""Search by vectors: candidates of FAISS, scored again exactly, in an order of their own.

FAISS's own scores differ in their last digits with the number of queries asked at once, and which
of several equal passages it returns is chance. Here a score is the inner product of the stored
vectors, summed in float64 and rounded to float32, and equal scores stand in the order of the rows.

Shapes: Q queries, D dimensions, C candidates of a query, K hits.
"""

from __future__ import annotations

import numpy as np

from retrieval.dense.embeddings import Embeddings
from retrieval.dense.faiss_index import VectorIndex

_SPARE = 16  # candidates beyond those asked for: most ties end there
_AT_ONCE = 1 << 20  # numbers of candidates' vectors in memory: 8 MB, which the cache holds
_QUERIES = 1024  # at once


class VectorSearch:
    """Finds the best rows for vectors of questions.

    Args:
        embeddings: The vectors of all rows.
        index: Gives candidates among them.
        removed: Rows that are no longer there, sorted.
        refine: Candidates that are scored again, for each hit that is asked for.
    """

    def __init__(
        self, embeddings: Embeddings, index: VectorIndex, removed: np.ndarray, refine: int = 1
    ) -> None:
        self._embeddings, self._index, self._refine = embeddings, index, refine
        self._removed = removed
        self.live = embeddings.rows - len(removed)

    def search(self, queries_QD: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows and scores of the hits of each query, the best first, at most ``k``.

        Args:
            queries_QD: float32.
            k: At least 1.
        """
        if not self.live:
            return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries_QD)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(queries_QD), _QUERIES):
            found += self._search(queries_QD[start : start + _QUERIES], k)
        return found

    def _search(self, queries_QD: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ask for more candidates until each query's hits are settled."""
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
            # A hit is sure if no row outside the candidates can have scored as much.
            outside_Q = rough_QC[:, -1] + slack_Q if self._index.exact else -np.inf
            # Where the part that was looked into has fewer than k that are there, more is.
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
        """Scores of candidates, and by how much rough ones can be wrong.

        A row that is not there, or no longer, scores minus infinity.
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
        # Bound of a float32 sum of D products, on either side (Higham 2002, sec. 3.1).
        slack_Q = queries_QD.shape[1] * 2.0**-23 * np.linalg.norm(queries_QD, axis=1) * norms_Q
        return scores_QC, slack_Q

    def _is_removed(self, rows_QC: np.ndarray) -> np.ndarray:
        if not len(self._removed):
            return np.zeros(rows_QC.shape, bool)
        places = np.searchsorted(self._removed, rows_QC)
        return self._removed[np.minimum(places, len(self._removed) - 1)] == rows_QC
