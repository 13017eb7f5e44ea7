"""BM25 retrieval with Pyserini (Lucene)."""

from __future__ import annotations

from retrieval.bm25.index import BM25, BM25Settings

__all__ = ["BM25", "BM25Settings"]
