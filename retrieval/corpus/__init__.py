"""A corpus of passages of any size, which is read from disk and needs little memory."""

from __future__ import annotations

from retrieval.corpus.corpus import Corpus

__all__ = ["Corpus"]
