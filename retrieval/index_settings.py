"""What a retriever's configuration makes: settings that can build an index, and open it."""

from __future__ import annotations

from typing import Protocol

from retrieval.corpus import Corpus
from retrieval.retriever import Retriever


class IndexSettings(Protocol):
    """Settings of a retriever; made without touching a disk or loading a model."""

    def build(self, corpus: Corpus) -> dict[str, float]:
        """Build the index, whole or not at all; do nothing where it is there already.

        Args:
            corpus: The passages.

        Returns:
            Numbers about it; ``bytes`` on disk at least.

        Raises:
            ValueError: If a setting is at fault, or another index is there.
        """
        ...

    def open(self, corpus: Corpus) -> Retriever:
        """Open the index, after checking that it is whole and made of these settings and passages.

        Raises:
            IndexFolderError: If it is not; the message says in what it differs.
        """
        ...
