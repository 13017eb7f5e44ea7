"""Passages and the ways to find them: corpora, BM25, dense vectors, fusion and reranking."""

from __future__ import annotations

from retrieval.passage import Passage

__all__ = ["Passage"]
