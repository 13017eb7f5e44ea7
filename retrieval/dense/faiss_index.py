"""FAISS: the rows of a matrix of embeddings that have the largest inner products with a query.

The kinds of indexes are those of `retrieval.dense.faiss_settings`. Of kind flat nothing is built:
the memory-mapped shards themselves are searched. The others give candidates, which whoever searches
scores again by the stored vectors.

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

_GPU_MOST = 2048  # candidates, the limit of FAISS on a GPU


class VectorIndex(Protocol):
    """Finds candidates among the rows of an index.

    Attributes:
        exact: Whether no row that is no candidate has a larger inner product than any that is.
        most: Candidates that it can give, at most; None: all rows.
        widest: Of an index that looks into a part of the rows, how many times larger the part must
            be to be all that it can look into; of others 1.
    """

    exact: bool
    most: int | None
    widest: int

    def candidates(
        self, queries_QD: np.ndarray, count: int, width: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inner products, rounded or approximate, and rows; both ``[Q, count]``, best first.

        A row of -1 stands for none.

        Args:
            queries_QD: float32.
            count: C.
            width: How many times as large a part of the rows to look into as the settings say.
        """
        ...


class FlatIndex:
    """Exhaustive search of memory-mapped shards.

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
        exact: See `VectorIndex`.
        most: See `VectorIndex`.
        depth: Of a graph: candidates that a search keeps, at least.
        probes: Of inverted lists: how many a search looks into.
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
        # A GPU looks into as many lists as it can give candidates, at most.
        self._lists = 1 if probes is None else min(index.nlist, most or index.nlist)
        self.widest = 1 if probes is None else max(1, -(-self._lists // probes))

    def candidates(
        self, queries_QD: np.ndarray, count: int, width: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex`."""
        parameters = self._parameters(count, width)
        scores, rows = self._index.search(queries_QD, count, params=parameters)
        return scores, rows

    def _parameters(self, count: int, width: int) -> Any:
        import faiss

        parameters: Any = None
        if self._depth is not None:  # a graph finds no more than it walks through
            parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
            parameters.efSearch = max(self._depth, count)
        if self._probes is not None:
            parameters = faiss.SearchParametersIVF()
            parameters.nprobe = min(self._probes * width, self._lists)
        return parameters


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
    """Let FAISS use so many threads while the block runs; the setting is the whole process's."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
