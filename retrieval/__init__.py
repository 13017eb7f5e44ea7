"""Passages and how they are found: corpus, BM25, dense vectors, fusion, reranking."""

from __future__ import annotations

from retrieval.passage import Passage

__all__ = ["Passage"]
