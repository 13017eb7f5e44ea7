"""BM25 retrieval: with Pyserini (Lucene) on disk, or in memory for passages that come and go."""

from __future__ import annotations

from retrieval.bm25.in_memory import InMemoryBM25
from retrieval.bm25.index import BM25, BM25Settings

__all__ = ["BM25", "BM25Settings", "InMemoryBM25"]
