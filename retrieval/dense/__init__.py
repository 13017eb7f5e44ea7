"""Dense retrieval: FAISS searches the passages' vectors, which are kept in shards on disk."""

from __future__ import annotations

from retrieval.dense.faiss_settings import HNSW, IVFPQ
from retrieval.dense.index import Dense, DenseSettings

__all__ = ["HNSW", "IVFPQ", "Dense", "DenseSettings"]
