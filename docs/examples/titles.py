"""An example of a retriever: passages whose title occurs in the query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from plumbing.mounts import SettingValueError
from plumbing.settings import check_types
from retrieval.answers import answer_tokens
from retrieval.corpus import Corpus
from retrieval.retriever import Hit


@dataclass(frozen=True)
class TitleSettings:
    """Settings of a `TitleRetriever`; making one touches no disk.

    Attributes:
        min_overlap: The share of a title's words that must occur in the query, 0 to 1.

    Raises:
        ValueError: If a value is mistyped or out of range.
    """

    min_overlap: float = 0.5

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.min_overlap <= 1:
            raise SettingValueError(
                "min_overlap", f"min_overlap must be in 0..1, got {self.min_overlap}"
            )

    def build(self, corpus: Corpus) -> dict[str, float]:
        """There is nothing to build: titles are read when the retriever is opened."""
        return {"bytes": 0.0}

    def open(self, corpus: Corpus) -> TitleRetriever:
        """The retriever over these passages."""
        return TitleRetriever(self, corpus)


class TitleRetriever:
    """Scores a passage by the share of its title's words that the query has."""

    def __init__(self, settings: TitleSettings, corpus: Corpus) -> None:
        self._least = settings.min_overlap
        self._titles = {
            passage.id: frozenset(answer_tokens(passage.title)) for passage in corpus.passages()
        }
        decisive = json.dumps(["titles", 1, asdict(settings), corpus.members])
        self.fingerprint = hashlib.sha256(decisive.encode()).hexdigest()  # the key of the cache

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first; ties in the order of the ids."""
        return [self._search(frozenset(answer_tokens(query)), k) for query in queries]

    def _search(self, words: frozenset[str], k: int) -> list[Hit]:
        scores = {
            id: len(title & words) / len(title) for id, title in self._titles.items() if title
        }
        hits = [Hit(id, score) for id, score in scores.items() if score and score >= self._least]
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage_id))[:k]
