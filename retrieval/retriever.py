"""What every retriever is: passages found for queries, best first.

A retriever's configuration makes its `IndexSettings`, which can build an index and open it.
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
        passage_id: Its id in the corpus.
        score: Higher is better; the scale is the retriever's own.
    """

    passage_id: str
    score: float


class Retriever(Protocol):
    """Finds passages: BM25, dense, or a fusion of several."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the hits (index, corpus, settings): the key of a cache."""
        ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first, ties in a fixed order.

        Fewer where fewer match; none for an empty query, or one without any known term.
        """
        ...


class Editable(ABC):
    """An index that passages can enter and leave without being built anew."""

    def add(self, passages: Iterable[Passage]) -> None:
        """Add passages; see `update`."""
        self.update(add=passages)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove passages by id; see `update`."""
        self.update(remove=ids)

    @abstractmethod
    def update(self, add: Iterable[Passage] = (), remove: Iterable[str] = ()) -> None:
        """Remove passages, then add others, in one step: another reader sees both or neither.

        It takes effect here at once, and elsewhere when the index is opened. From then on the index
        is that of the corpus which holds just these passages; opening it with the old one is an
        error.

        Args:
            add: Passages whose ids are not in the index, or stand in ``remove``.
            remove: Ids of passages that are in the index.

        Raises:
            DataError: If an id to add is in the index, or one to remove is not; nothing changes.
            IndexFolderError: If another process changed the index, or is writing it.
        """

    @abstractmethod
    def compact(self) -> None:
        """Forget removed passages for good.

        Raises:
            IndexFolderError: If another process changed the index, or is writing it.
        """


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
