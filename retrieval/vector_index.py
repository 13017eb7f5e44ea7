"""FAISS: the rows of a matrix of embeddings that have the largest inner products with a query.

The kinds of indexes are those of `retrieval.vector_settings`. Of kind flat nothing is built: the
memory-mapped shards themselves are searched. The others give candidates, which whoever searches
scores again by the stored vectors.

Shapes: Q queries, D dimensions, N rows of a shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrieval.embeddings import Embeddings
from retrieval.vector_settings import HNSW, IVFPQ

_GPU_MOST = 2048  # candidates, the limit of FAISS on a GPU


class VectorIndex(Protocol):
    """Finds candidates among the rows of an index.

    Attributes:
        exact: Whether no row that is no candidate has a larger inner product than any that is.
        most: Candidates that it can give, at most; None: all rows.
    """

    exact: bool
    most: int | None

    def candidates(self, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Inner products, rounded or approximate, and rows; both ``[Q, count]``, best first.

        A row of -1 stands for none.
        """
        ...


class FlatIndex:
    """Exhaustive search of memory-mapped shards.

    Args:
        embeddings: The vectors.
    """

    exact = True
    most: int | None = None

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    def candidates(self, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex`."""
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
    """Search of an index that FAISS holds in memory.

    Args:
        index: FAISS's.
        parameters: Of its searches.
        exact: See `VectorIndex`.
        most: See `VectorIndex`.
        depth: Of a graph: candidates that a search keeps, at least.
    """

    def __init__(
        self,
        index: Any,
        parameters: Any = None,
        exact: bool = False,
        most: int | None = None,
        depth: int | None = None,
    ) -> None:
        self._index, self._parameters, self.exact, self.most = index, parameters, exact, most
        self._depth = depth

    def candidates(self, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex`."""
        parameters = self._parameters
        if self._depth is not None:  # a graph finds no more than it walks through
            import faiss

            parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
            parameters.efSearch = max(self._depth, count)
        scores, rows = self._index.search(queries_QD, count, params=parameters)
        return scores, rows


def new_index(settings: IVFPQ | HNSW, embeddings: Embeddings, threads: int) -> Any:
    """A FAISS index without rows, which has learnt from the vectors what it must know of them.

    Args:
        settings: Of which kind, and how.
        embeddings: The vectors.
        threads: Of FAISS.

    Raises:
        ValueError: If there are too few vectors to learn from, or they cannot be cut into pieces.
    """
    import faiss

    if isinstance(settings, IVFPQ):
        with faiss_threads(threads):
            return _trained(settings, embeddings)
    # In float16: candidates are scored again, and the shards have the vectors themselves.
    kind: Any = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexHNSWSQ(
        embeddings.dimension, kind, settings.neighbours, faiss.METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = settings.build_depth
    return index


def add_rows(settings: IVFPQ | HNSW, index: Any, embeddings: Embeddings, threads: int) -> None:
    """Put those rows into a FAISS index that it does not hold yet.

    Args:
        settings: Of the index.
        index: FAISS's; holds the first rows, possibly none.
        embeddings: The vectors of all rows.
        threads: Of FAISS.
    """
    one = isinstance(settings, HNSW) and settings.deterministic
    with faiss_threads(1 if one else threads):
        for start, vectors_ND in embeddings.blocks():
            index.add(vectors_ND[max(0, index.ntotal - start) :])


def _trained(settings: IVFPQ, embeddings: Embeddings) -> Any:
    import faiss

    rows, dimension = embeddings.rows, embeddings.dimension
    lists = settings.lists or 2 ** round(math.log2(4 * math.sqrt(rows)))
    least = max(lists, 2**settings.bits)
    if min(rows, settings.train_rows) < least:
        raise ValueError(
            f"{lists} lists and codes of {settings.bits} bits are learnt from at least {least} "
            f"passages, got {min(rows, settings.train_rows)}; set retriever.kind=flat, or fewer "
            "retriever.ivfpq.lists and retriever.ivfpq.bits"
        )
    if dimension % settings.subvectors:
        raise ValueError(
            f"vectors of {dimension} dimensions cannot be cut into {settings.subvectors} equal "
            "pieces; set retriever.ivfpq.subvectors to a divisor"
        )
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dimension),
        dimension,
        lists,
        settings.subvectors,
        settings.bits,
        faiss.METRIC_INNER_PRODUCT,
    )
    for clustering in (index.cp, index.pq.cp):
        clustering.min_points_per_centroid = 1  # FAISS would warn, on stderr
        clustering.max_points_per_centroid = settings.train_rows
    count = min(rows, settings.train_rows)
    index.train(embeddings.vectors(np.arange(count) * rows // count))
    return index


def open_index(
    settings: IVFPQ | HNSW | None, embeddings: Embeddings, path: Path | None, device: str
) -> VectorIndex:
    """What searches the rows of an index.

    Args:
        settings: Of its kind; None: flat.
        embeddings: The vectors.
        path: FAISS's file, its checksum verified; None: flat.
        device: "cpu"; "cuda"; or "auto": a GPU if FAISS was built for them and there is one. A
            graph stays on the processor.

    Raises:
        ValueError: If a GPU is asked for, and FAISS has none.
    """
    import faiss

    gpu = _uses_gpu(device)
    parameters: Any = None
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
    if settings is not None:
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = settings.probes
    if gpu:
        return FaissIndex(_to_gpu(index), parameters, most=_GPU_MOST)
    return FaissIndex(index, parameters)


def _uses_gpu(device: str) -> bool:
    import faiss

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"device must be auto, cpu or cuda, got {device!r}; set retriever.search_device"
        )
    there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device == "cuda" and not there:
        raise ValueError(
            "FAISS finds no GPU; install `pip install -e '.[gpu]'` on a machine that has one, or "
            "set retriever.search_device=cpu"
        )
    return device != "cpu" and there


def _to_gpu(index: Any) -> Any:
    import faiss

    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Let FAISS use so many threads while the block runs; the setting is the whole process's."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
