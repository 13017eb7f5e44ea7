"""BM25 in memory: Lucene's formula, and exact removal."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError
from retrieval.bm25.in_memory import InMemoryBM25, terms
from retrieval.passage import Passage, passage_text

WORDS = ("lisbon", "surgeon", "sea", "town", "fox", "violin", "old", "blick")


def passage(number: int, words: list[str] | None = None) -> Passage:
    chosen = words or random.Random(number).choices(WORDS, k=2 + number % 7)
    return Passage(f"p{number}", "", " ".join(chosen))


def naive(passages: list[Passage], query: str, k: int) -> list[tuple[str, float]]:
    """The formula as Lucene documents it, term by term and passage by passage."""
    counts = {each.id: Counter(terms(passage_text(each))) for each in passages}
    mean = sum(count.total() for count in counts.values()) / len(counts)
    found = {}
    for id, own in counts.items():
        score = 0.0
        for term in terms(query):
            having = sum(term in other for other in counts.values())
            rarity = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
            score += rarity * own[term] / (own[term] + 0.9 * (0.6 + 0.4 * own.total() / mean))
        if score > 0:
            found[id] = score
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))[:k]


def test_the_scores_are_the_formula() -> None:
    passages = [passage(number) for number in range(40)]
    index = InMemoryBM25(passages)
    for query in ("the surgeon of Lisbon", "old old fox", "violins by the sea", "nothing known"):
        hits = index.search([query], 7)[0]
        expected = naive(passages, query, 7)
        assert [hit.passage_id for hit in hits] == [id for id, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=120))
def test_a_removed_passage_leaves_no_trace(changes: list[tuple[bool, int]]) -> None:
    index, there = InMemoryBM25(), set()
    for is_added, number in changes:
        if is_added and number not in there:
            index.add([passage(number)])
            there.add(number)
        elif not is_added and number in there:
            index.remove([f"p{number}"])
            there.remove(number)
    fresh = InMemoryBM25([passage(number) for number in sorted(there)])
    queries = ["surgeon of the old town", "fox", "blick lisbon sea"]
    assert index.search(queries, 3) == fresh.search(queries, 3)
    assert index.fingerprint == fresh.fingerprint
    assert len(index) == len(there)


def test_many_removals_make_the_postings_anew() -> None:
    index = InMemoryBM25([passage(0)])
    for number in range(1, 400):
        index.update(add=[passage(number)], remove=[f"p{number - 1}"])
    assert len(index._ids) < 140
    assert [hit.passage_id for hit in index.search(["lisbon sea fox old blick"], 5)[0]] == ["p399"]


def test_terms() -> None:
    assert terms("Who was Tova Blick's father?") == ["who", "tova", "blick", "father"]
    assert terms("Bodies of the buses, glass and Zeus") == ["body", "buse", "glass", "zeus"]
    assert terms("2008年的NBA") == ["2008", "年", "的", "nba"]
    assert terms("— ! ?") == []


def test_what_cannot_be_changed_is_refused_and_changes_nothing() -> None:
    index = InMemoryBM25([passage(1)])
    before = index.fingerprint
    for changes in (
        {"add": [passage(1)]},
        {"add": [passage(2), passage(2)]},
        {"remove": ["p2"]},
        {"remove": ["p1", "p1"]},
    ):
        with pytest.raises(DataError, match="cannot"):
            index.update(**changes)
    assert index.fingerprint == before
    index.update(add=[passage(1)], remove=["p1"])
    assert index.fingerprint == before
    with pytest.raises(ValueError, match="k must be positive"):
        index.search(["fox"], 0)
