"""Builds FAISS's indexes: an index learns from the vectors, and then gets their rows.

Shapes: N rows of a shard, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plumbing.mounts import SettingValueError
from retrieval.dense.embeddings import Embeddings
from retrieval.dense.faiss_index import faiss_threads
from retrieval.dense.faiss_settings import HNSW, IVFPQ


def new_index(settings: IVFPQ | HNSW, embeddings: Embeddings, threads: int) -> Any:
    """Make a FAISS index that has learnt from the vectors, but has no rows yet.

    Args:
        settings: The settings of the index; their class is its kind.
        embeddings: The vectors.
        threads: The number of threads of FAISS.

    Raises:
        ValueError: If there are too few vectors to learn from, or if they cannot be cut evenly.
    """
    import faiss

    if isinstance(settings, IVFPQ):
        with faiss_threads(threads):
            return _trained(settings, embeddings)
    # float16 suffices, because candidates are scored again with the vectors in the shards.
    kind: Any = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexHNSWSQ(
        embeddings.dimension, kind, settings.neighbours, faiss.METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = settings.build_depth
    return index


def add_rows(settings: IVFPQ | HNSW, index: Any, embeddings: Embeddings, threads: int) -> None:
    """Add the rows to a FAISS index that it does not have yet.

    Args:
        settings: The settings of the index.
        index: The FAISS index. It may have the first rows already.
        embeddings: The vectors of all rows.
        threads: The number of threads of FAISS.
    """
    one = isinstance(settings, HNSW) and settings.deterministic
    with faiss_threads(1 if one else threads):
        for start, vectors_ND in embeddings.blocks():
            index.add(vectors_ND[max(0, index.ntotal - start) :])


def check_learnable(settings: IVFPQ, rows: int) -> None:
    """Check that an index can learn its clusters and codes from this number of vectors.

    Raises:
        ValueError: If there are too few.
    """
    lists = _lists(settings, rows)
    least = max(lists, 2**settings.bits)
    if min(rows, settings.train_rows) < least:
        raise SettingValueError(
            "kind",
            f"{lists} lists and codes of {settings.bits} bits are learnt from at least {least} "
            f"passages, got {min(rows, settings.train_rows)}",
            "set {}=flat, or fewer ivfpq.lists and ivfpq.bits",
        )


def check_dimension(settings: IVFPQ, dimension: int) -> None:
    """Check that vectors can be cut into equal pieces.

    Raises:
        ValueError: If the number of pieces does not divide the dimension.
    """
    if dimension % settings.subvectors:
        raise SettingValueError(
            "ivfpq.subvectors",
            f"vectors of {dimension} dimensions cannot be cut into {settings.subvectors} equal "
            "pieces",
            "set {} to a divisor",
        )


def _lists(settings: IVFPQ, rows: int) -> int:
    return settings.lists or 2 ** round(math.log2(4 * math.sqrt(rows)))


def _trained(settings: IVFPQ, embeddings: Embeddings) -> Any:
    import faiss

    rows, dimension = embeddings.rows, embeddings.dimension
    check_learnable(settings, rows)
    check_dimension(settings, dimension)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dimension),
        dimension,
        _lists(settings, rows),
        settings.subvectors,
        settings.bits,
        faiss.METRIC_INNER_PRODUCT,
    )
    for clustering in (index.cp, index.pq.cp):
        clustering.min_points_per_centroid = 1  # otherwise FAISS warns on stderr
        clustering.max_points_per_centroid = settings.train_rows
    count = min(rows, settings.train_rows)
    index.train(embeddings.vectors(np.arange(count) * rows // count))
    return index
