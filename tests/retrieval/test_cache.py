"""Hits and scores that are cached on disk."""

from __future__ import annotations

import math

import pytest

from retrieval.cache import CachedReranker, CachedRetriever, checked_scores
from retrieval.passage import Passage
from tests.helpers.fakes import FakeReranker, WordRetriever

CORPUS = {
    id: Passage(id, "", text)
    for id, text in {
        "a": "red red fish",
        "b": "blue fish",
        "c": "red bird",
        "d": "old bird",
    }.items()
}
QUERIES = ["red fish", "old", "zebra", "red fish"]


def pairs(*names):
    """Turn ("q a", "q b") into pairs of a query and a passage."""
    return [(name.split()[0], CORPUS[name.split()[1]]) for name in names]


def test_hits_are_those_of_the_retriever_and_asked_for_once(tmp_path):
    plain, first, second = WordRetriever(CORPUS), WordRetriever(CORPUS), WordRetriever(CORPUS)
    expected = plain.search(QUERIES, 2)
    assert CachedRetriever(first, tmp_path).search(QUERIES, 2) == expected
    assert first.asked == [["red fish", "old", "zebra"]]
    cached = CachedRetriever(second, tmp_path)
    assert cached.fingerprint == "words"
    assert cached.search(QUERIES[::-1], 2) == expected[::-1]
    assert cached.search([], 2) == []
    assert second.asked == []
    assert cached.search(["bird", "old"], 2) == plain.search(["bird", "old"], 2)
    assert second.asked == [["bird"]]


def test_another_k_or_retriever_is_asked_itself(tmp_path):
    CachedRetriever(WordRetriever(CORPUS), tmp_path).search(QUERIES, 2)
    for k, fingerprint in ((1, "words"), (2, "other words")):
        retriever = WordRetriever(CORPUS, fingerprint)
        hits = CachedRetriever(retriever, tmp_path).search(QUERIES, k)
        assert hits == WordRetriever(CORPUS).search(QUERIES, k)
        assert len(retriever.asked) == 1


class Edited(WordRetriever):
    """A retriever that changes while it searches, like an index that somebody edits."""

    def search(self, queries, k):
        hits = super().search(queries, k)
        self.fingerprint = "edited"
        return hits


def test_hits_of_an_index_that_changed_meanwhile_are_not_kept(tmp_path):
    expected = WordRetriever(CORPUS).search(QUERIES, 2)
    assert CachedRetriever(Edited(CORPUS), tmp_path).search(QUERIES, 2) == expected
    for fingerprint in ("words", "edited"):
        retriever = WordRetriever(CORPUS, fingerprint)
        CachedRetriever(retriever, tmp_path).search(QUERIES, 2)
        assert len(retriever.asked) == 1


def test_scores_are_those_of_the_reranker_and_asked_for_once(tmp_path):
    first, second = FakeReranker(), FakeReranker()
    asked = pairs("q a", "r a", "q b", "q a")
    assert CachedReranker(first, tmp_path).score(asked) == [-12, -12, -9, -12]
    assert first.asked == [pairs("q a", "r a", "q b")]
    cached = CachedReranker(second, tmp_path)
    assert cached.fingerprint == "short"
    assert cached.score(asked[::-1]) == [-12, -9, -12, -12]
    assert cached.score([]) == []
    assert second.asked == []
    # With more passages for a known query, only the new ones are scored, and all are cached.
    assert cached.score(pairs("q c", "q a", "q b")) == [-8, -12, -9]
    assert second.asked == [pairs("q c")]
    third = FakeReranker()
    assert CachedReranker(third, tmp_path).score(pairs("q a", "q b", "q c")) == [-12, -9, -8]
    assert third.asked == []


def test_another_reranker_or_text_is_scored_itself(tmp_path):
    CachedReranker(FakeReranker(), tmp_path).score(pairs("q a"))
    other = FakeReranker(lambda query, passage: 7.0, "seven")
    assert CachedReranker(other, tmp_path).score(pairs("q a")) == [7]
    same_id = [("q", Passage("a", "", "new text"))]
    assert CachedReranker(FakeReranker(), tmp_path).score(same_id) == [-8]
    titled = [("q", Passage("a", "red", "red fish"))]  # together, title and text read as before
    assert CachedReranker(FakeReranker(), tmp_path).score(titled) == [-8]


def test_scores_survive_exactly(tmp_path):
    rule = {"a": 0.1 + 0.2, "b": -1e-300, "c": 1 / 3}
    reranker = FakeReranker(lambda query, passage: rule[passage.id])
    asked = pairs("q a", "q b", "q c")
    CachedReranker(reranker, tmp_path).score(asked)
    assert CachedReranker(FakeReranker(), tmp_path).score(asked) == list(rule.values())


def test_damaged_entries_are_computed_again(tmp_path):
    CachedRetriever(WordRetriever(CORPUS), tmp_path).search(QUERIES, 2)
    CachedReranker(FakeReranker(), tmp_path).score(pairs("q a", "r b"))
    for file in tmp_path.iterdir():
        lines = file.read_bytes().split(b"\n")
        lines[0] = lines[0][:-3] + b"9" + lines[0][-2:]
        file.write_bytes(b"\n".join(lines))
    retriever, reranker = WordRetriever(CORPUS), FakeReranker()
    assert CachedRetriever(retriever, tmp_path).search(QUERIES, 2) == WordRetriever(CORPUS).search(
        QUERIES, 2
    )
    assert retriever.asked == [["red fish"]]
    assert CachedReranker(reranker, tmp_path).score(pairs("q a", "r b")) == [-12, -9]
    assert reranker.asked == [pairs("q a")]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_must_be_finite(bad, tmp_path):
    reranker = FakeReranker(lambda query, passage: bad if passage.id == "b" else 1.0)
    message = f"the reranker gave {bad} to passage 'b' for the query 'q'; expected finite"
    with pytest.raises(ValueError, match=message):
        checked_scores(reranker, pairs("q a", "q b"))
    with pytest.raises(ValueError, match=message):
        CachedReranker(reranker, tmp_path).score(pairs("q a", "q b"))
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_a_score_for_each_pair():
    class Short(FakeReranker):
        def score(self, pairs):
            return super().score(pairs)[:-1]

    with pytest.raises(ValueError, match="expected 2 scores from the reranker, got 1"):
        checked_scores(Short(), pairs("q a", "q b"))
