"""A retriever and a reranker that count words: no index, no model, and they note what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrieval.answers import answer_tokens
from retrieval.passage import Passage
from retrieval.retriever import Hit


@dataclass
class WordRetriever:
    """Passages by the number of words that they share with the query; ties by id."""

    corpus: Mapping[str, Passage]
    fingerprint: str = "words"
    asked: list[list[str]] = field(default_factory=list)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.asked.append(list(queries))
        return [self._search(query)[:k] for query in queries]

    def _search(self, query: str) -> list[Hit]:
        words = set(answer_tokens(query))
        hits = [
            Hit(id, float(len(words & set(answer_tokens(f"{passage.title} {passage.text}")))))
            for id, passage in self.corpus.items()
        ]
        return sorted((hit for hit in hits if hit.score), key=lambda h: (-h.score, h.passage_id))


@dataclass
class FakeReranker:
    """Scores by a function of query and passage; by default, short texts are the best."""

    rule: Callable[[str, Passage], float] = lambda query, passage: -float(len(passage.text))
    fingerprint: str = "short"
    asked: list[list[tuple[str, Passage]]] = field(default_factory=list)

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        self.asked.append(list(pairs))
        return [self.rule(*pair) for pair in pairs]


@dataclass(frozen=True)
class WordSettings:
    """Settings that open a `WordRetriever`, as a configuration names them."""

    index_dir: str = "nowhere"

    def build(self, corpus: Mapping[str, Passage]) -> dict[str, float]:
        return {"bytes": 10.0, "passages": float(len(corpus))}

    def open(self, corpus: Any) -> WordRetriever:
        return WordRetriever(corpus, f"words of {self.index_dir}")


def make_hits(**scores: float) -> list[Hit]:
    """Hits by id, in the order given."""
    return [Hit(id, score) for id, score in scores.items()]
