"""Dense retrieval: encoders' vectors in shards on disk, searched by FAISS."""

from __future__ import annotations

from retrieval.dense.faiss_settings import HNSW, IVFPQ
from retrieval.dense.index import Dense, DenseSettings

__all__ = ["HNSW", "IVFPQ", "Dense", "DenseSettings"]
