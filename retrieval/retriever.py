"""The interface of every retriever, which finds passages for queries, best first.

A retriever's configuration creates its `IndexSettings`, which can build the index and open it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage_id: The id of the passage in the corpus.
        score: Higher is better; each retriever has its own scale.
    """

    passage_id: str
    score: float


class Retriever(Protocol):
    """Finds passages, by BM25, by dense vectors, or by a fusion of several retrievers."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the hits: index, corpus and settings.

        It is part of the key under which hits are cached.
        """
        ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first, ties in a fixed order.

        A query has fewer hits if fewer passages match. An empty query has none, and neither has a
        query without any known term.
        """
        ...


class Editable(ABC):
    """An index to which passages can be added and removed without building it again."""

    def add(self, passages: Iterable[Passage]) -> None:
        """Add passages, as `update` does."""
        self.update(add=passages)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove passages by id, as `update` does."""
        self.update(remove=ids)

    @abstractmethod
    def update(self, add: Iterable[Passage] = (), remove: Iterable[str] = ()) -> None:
        """Remove passages, then add others, in one step.

        Another reader sees both changes or neither. This object shows the change at once; others
        show it when they open the index. From then on, the index belongs to the corpus of exactly
        the passages that it now contains, and opening it with the old corpus is an error.

        Args:
            add: Passages whose ids are not in the index, or are in ``remove``.
            remove: Ids of passages that are in the index.

        Raises:
            DataError: If an id to add is already in the index, or an id to remove is not. The index
                then stays as it was.
            FolderError: If another process has changed the index, or is writing to it.
        """

    @abstractmethod
    def compact(self) -> None:
        """Erase removed passages for good.

        Raises:
            FolderError: If another process has changed the index, or is writing to it.
        """


class IndexSettings(Protocol):
    """The settings of a retriever. Creating them reads no file and loads no model."""

    def build(self, corpus: Corpus) -> dict[str, float]:
        """Build the index, unless it exists already. It is built whole or not at all.

        Args:
            corpus: The passages.

        Returns:
            Numbers about the index, at least ``bytes``, its size on disk.

        Raises:
            ValueError: If a setting is wrong, or if another index is in its folder.
        """
        ...

    def open(self, corpus: Corpus) -> Retriever:
        """Open the index, after checking that it is whole and matches these settings and passages.

        Raises:
            FolderError: If it is not, or does not; the message names the difference.
        """
        ...
