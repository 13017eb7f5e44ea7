"""Rerankers, which give a relevance score to a question and a passage."""

from __future__ import annotations

from retrieval.rerank.reranker import Reranker, relevance
from retrieval.rerank.rerankers import FlagEmbeddingReranker, TrainedReranker, no_reranker

__all__ = ["FlagEmbeddingReranker", "Reranker", "TrainedReranker", "no_reranker", "relevance"]
