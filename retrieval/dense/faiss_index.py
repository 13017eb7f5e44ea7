"""Finds with FAISS the rows of embeddings that have the largest inner products with a query.

`retrieval.dense.faiss_settings` describes the kinds of indexes. For the kind "flat" nothing is
built; FAISS searches the memory-mapped shards themselves. The other kinds find candidates, which
`retrieval.dense.search` scores again with the stored vectors.

Shapes: Q queries, D dimensions, N rows of a shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plumbing.mounts import SettingValueError
from retrieval.dense.embeddings import Embeddings
from retrieval.dense.faiss_settings import HNSW, IVFPQ

_GPU_MOST = 2048  # candidates; FAISS's limit on a GPU


class VectorIndex(Protocol):
    """Finds candidates among the rows of an index.

    Attributes:
        exact: True if the candidates contain the best rows.
        most: The largest number of candidates that a search can return; None for all rows.
        widest: The largest useful ``width`` of `candidates`, for an index that searches only a part
            of the rows; 1 for other indexes.
    """

    exact: bool
    most: int | None
    widest: int

    def candidates(
        self, queries_QD: np.ndarray, count: int, width: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find candidates for each query.

        Args:
            queries_QD: The queries' vectors, float32.
            count: The number of candidates for each query.
            width: The factor by which the part of the rows that is searched exceeds the settings.

        Returns:
            The inner products, which may be rounded or approximate, and the rows, both
            ``[Q, count]``, best first. A row of -1 stands for no candidate.
        """
        ...


class FlatIndex:
    """Searches memory-mapped shards exhaustively.

    Args:
        embeddings: The vectors.
    """

    exact = True
    most: int | None = None
    widest = 1

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    def candidates(
        self, queries_QD: np.ndarray, count: int, width: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find candidates for each query (`VectorIndex.candidates`); ``width`` has no effect."""
        import faiss

        best = faiss.ResultHeap(len(queries_QD), count, keep_max=True)
        for start, vectors_ND in self._embeddings.blocks():
            scores, rows = faiss.knn(
                queries_QD, vectors_ND, min(count, len(vectors_ND)), faiss.METRIC_INNER_PRODUCT
            )
            best.add_result(scores, rows + start)
        best.finalize()
        return best.D, best.I


class FaissIndex:
    """Searches an index that FAISS keeps in memory.

    Args:
        index: The FAISS index.
        exact: True if the candidates contain the best rows.
        most: The largest number of candidates that a search can return; None for all rows.
        depth: For a graph, the smallest number of candidates that a search keeps.
        probes: For inverted lists, the number of lists that are searched.
    """

    def __init__(
        self,
        index: Any,
        exact: bool = False,
        most: int | None = None,
        depth: int | None = None,
        probes: int | None = None,
    ) -> None:
        self._index, self.exact, self.most = index, exact, most
        self._depth, self._probes = depth, probes
        # On a GPU, the limit for candidates is also the limit for lists.
        self._lists = 1 if probes is None else min(index.nlist, most or index.nlist)
        self.widest = 1 if probes is None else max(1, -(-self._lists // probes))

    def candidates(
        self, queries_QD: np.ndarray, count: int, width: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find candidates for each query (`VectorIndex.candidates`)."""
        parameters = self._parameters(count, width)
        scores, rows = self._index.search(queries_QD, count, params=parameters)
        return scores, rows

    def _parameters(self, count: int, width: int) -> Any:
        import faiss

        parameters: Any = None
        if self._depth is not None:  # a graph finds at most as many rows as the search keeps
            parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
            parameters.efSearch = max(self._depth, count)
        if self._probes is not None:
            parameters = faiss.SearchParametersIVF()
            parameters.nprobe = min(self._probes * width, self._lists)
        return parameters


def open_index(
    settings: IVFPQ | HNSW | None, embeddings: Embeddings, path: Path | None, device: str
) -> VectorIndex:
    """Open what searches the rows of an index.

    Args:
        settings: The settings of the index; None for the kind "flat".
        embeddings: The vectors.
        path: FAISS's file, whose checksum was verified; None for the kind "flat".
        device: "cpu", "cuda", or "auto", which means a GPU if there is one that FAISS can use. A
            graph (HNSW) always stays on the CPU.

    Raises:
        ValueError: If a GPU is asked for and FAISS cannot use one.
    """
    import faiss

    gpu = _uses_gpu(device)
    if path is None:
        if not gpu:
            return FlatIndex(embeddings)
        index = _to_gpu(faiss.IndexFlatIP(embeddings.dimension))
        for _, vectors_ND in embeddings.blocks():
            index.add(vectors_ND)
        return FaissIndex(index, exact=True, most=_GPU_MOST)
    index = faiss.read_index(str(path))
    if isinstance(settings, HNSW):
        return FaissIndex(index, depth=settings.search_depth)
    probes = None if settings is None else settings.probes
    if gpu:
        return FaissIndex(_to_gpu(index), most=_GPU_MOST, probes=probes)
    return FaissIndex(index, probes=probes)


def _uses_gpu(device: str) -> bool:
    import faiss

    if device not in ("auto", "cpu", "cuda"):
        raise SettingValueError(
            "search_device", f"device must be auto, cpu or cuda, got {device!r}"
        )
    there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device == "cuda" and not there:
        raise SettingValueError(
            "search_device",
            "FAISS finds no GPU",
            "install `pip install -e '.[gpu]'` on a machine that has one, or set {}=cpu",
        )
    return device != "cpu" and there


def _to_gpu(index: Any) -> Any:
    import faiss

    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Let FAISS use this number of threads while the block runs; it holds for the whole process."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
