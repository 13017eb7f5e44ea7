"""What every retriever is: passages found for queries, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
