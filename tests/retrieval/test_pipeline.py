"""Retrieving, reranking and weighting passages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline, PipelineSettings
from retrieval.rerank.reranker import relevance
from retrieval.retriever import Hit
from tests.helpers.fakes import FakeReranker, WordRetriever

CORPUS = {
    id: Passage(id, "", text)
    for id, text in {
        "a": "red red fish of the sea",
        "b": "blue fish",
        "c": "red bird",
        "d": "old bird",
    }.items()
}


def make(reranker=None, corpus=CORPUS, **settings):
    return Pipeline(corpus, WordRetriever(CORPUS), reranker, PipelineSettings(**settings))


def ids(hits):
    return [hit.passage_id for hit in hits]


def test_without_a_reranker_the_hits_stay_as_they_were_found():
    (hits,) = make().rank(["red fish"])
    assert hits == WordRetriever(CORPUS).search(["red fish"], 50)[0]
    assert ids(hits) == ["a", "b", "c"]
    assert ids(make(n=2).rank(["red fish"])[0]) == ["a", "b"]


def test_the_reranker_orders_the_n_that_were_retrieved():
    (hits,) = make(FakeReranker()).rank(["red fish"])
    assert hits == [Hit("c", -8), Hit("b", -9), Hit("a", -23)]
    assert ids(make(FakeReranker(), n=2).rank(["red fish"])[0]) == ["b", "a"]


def test_the_reranker_s_ties_stay_as_they_were_found():
    level = FakeReranker(lambda query, passage: 1.0)
    assert ids(make(level).rank(["red fish"])[0]) == ["a", "b", "c"]


@pytest.mark.parametrize("reranker", [None, FakeReranker()])
def test_nothing_asked_and_nothing_found_are_ordinary(reranker, tmp_path):
    pipeline = make(reranker, cache_dir=tmp_path)
    assert pipeline.rank([]) == []
    assert pipeline.rank(["", "zebra", " \n", "old"]) == [[], [], [], pipeline.rank(["old"])[0]]
    assert pipeline.passages([]) == ()
    assert pipeline.weights([]) == ()


def test_blank_queries_do_not_reach_the_retriever():
    pipeline = make()
    pipeline.rank(["", "red", " ", "red"])
    pipeline.rank(["", " "])
    assert pipeline.retriever.asked == [["red"]]


@pytest.mark.parametrize(
    ("reranker", "weighting", "softmax"),
    [
        (None, "auto", False),
        (None, "softmax", True),
        (None, "uniform", False),
        (FakeReranker(), "auto", True),
        (FakeReranker(), "softmax", True),
        (FakeReranker(), "uniform", False),
    ],
)
def test_weights(reranker, weighting, softmax):
    pipeline = make(reranker, weighting=weighting, temperature=3.0)
    kept = pipeline.rank(["red fish"])[0][:2]
    expected = relevance([hit.score for hit in kept], 3.0) if softmax else (0.5, 0.5)
    assert pipeline.weights(kept) == expected
    assert sum(pipeline.weights(kept)) == pytest.approx(1)


def test_weights_are_over_the_k_that_are_kept():
    """Eq. 9 takes the softmax of the top K scores, not of all N."""
    pipeline = make(FakeReranker(lambda query, passage: {"a": 2.0, "b": 1.0}.get(passage.id, 0.0)))
    (hits,) = pipeline.rank(["red fish"])
    one, e = hits[:1], math.e
    assert pipeline.weights(one) == (1.0,)
    assert pipeline.weights(hits[:2]) == pytest.approx((e / (e + 1), 1 / (e + 1)))


queries = st.lists(
    st.sampled_from(["red", "old bird", "fish", "", "zebra", "red blue"]), max_size=9
)


@settings(deadline=None)  # other processes may slow it down
@given(queries, st.integers(1, 5), st.integers(1, 4))
def test_batches_and_company_change_nothing(asked, batch_size, n):
    pipeline = make(FakeReranker(), batch_size=batch_size, n=n)
    alone = [make(FakeReranker(), n=n).rank([query])[0] for query in asked]
    assert pipeline.rank(asked) == alone


def test_ten_evaluations_ask_once(tmp_path):
    asked = ["red fish", "", "old bird", "zebra"]
    first = make(FakeReranker(), cache_dir=tmp_path)
    ranked = first.rank(asked)
    assert ranked == make(FakeReranker()).rank(asked)
    for _ in range(10):
        retriever, reranker = WordRetriever(CORPUS), FakeReranker()
        settings = PipelineSettings(cache_dir=tmp_path, batch_size=1)
        assert Pipeline(CORPUS, retriever, reranker, settings).rank(asked) == ranked
        assert retriever.asked == []
        assert reranker.asked == []


def test_an_interrupted_reranking_goes_on_where_it_stopped(tmp_path):
    class Dying(FakeReranker):
        def score(self, pairs):
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().score(pairs)

    asked = ["red fish", "old bird", "blue"]
    with pytest.raises(KeyboardInterrupt):
        make(Dying(), cache_dir=tmp_path, batch_size=1).rank(asked)
    reranker = FakeReranker()
    ranked = make(reranker, cache_dir=tmp_path).rank(asked)
    assert ranked == make(FakeReranker()).rank(asked)
    assert [query for pairs in reranker.asked for query, _ in pairs] == ["blue"]


def test_hits_that_are_not_in_the_corpus_are_an_error():
    smaller = {id: passage for id, passage in CORPUS.items() if id != "b"}
    message = "found the passage 'b', which is not among the 3 of the corpus; give the corpus that"
    with pytest.raises(DataError, match=message):
        make(FakeReranker(), corpus=smaller).rank(["fish"])
    with pytest.raises(DataError, match=message):
        make(corpus=smaller).passages([Hit("b", 1.0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, r"n must be positive, got 0; set n"),
        ({"batch_size": 0}, r"batch_size must be positive, got 0; set batch_size"),
        ({"weighting": "x"}, "weighting must be one of auto, softmax, uniform, got 'x'; set"),
        ({"temperature": 0}, r"temperature must be positive, got 0; set temperature"),
        ({"temperature": math.inf}, "temperature must be positive, got inf"),
        ({"temperature": math.nan}, "temperature must be positive, got nan"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PipelineSettings(**settings)
