"""A corpus of passages, of any size, in flat memory."""

from __future__ import annotations

from retrieval.corpus.corpus import Corpus

__all__ = ["Corpus"]
