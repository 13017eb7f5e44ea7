"""Fusing the lists of several retrievers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.bm25.index import BM25Settings
from retrieval.fusion import (
    FusedRetriever,
    Fusion,
    HybridSettings,
    fuse,
    reciprocal_ranks,
    scaled_scores,
)
from retrieval.passage import Passage
from retrieval.retriever import Hit
from tests.helpers.fakes import WordRetriever, WordSettings, make_hits

CORPUS = {
    id: Passage(id, "", text)
    for id, text in {
        "a": "red red fish",
        "b": "blue fish",
        "c": "red bird",
        "d": "old bird",
    }.items()
}


class Fixed:
    """A retriever that finds the same hits for every query."""

    def __init__(self, hits, fingerprint="fixed"):
        self.hits, self.fingerprint, self.depths = hits, fingerprint, []

    def search(self, queries, k):
        self.depths.append(k)
        return [self.hits[:k] for _ in queries]


def ids(hits):
    return [hit.passage_id for hit in hits]


def test_reciprocal_ranks_by_hand():
    lists = [make_hits(a=9, b=5), make_hits(b=0.2, c=0.1)]
    hits = fuse(lists, [1, 1], reciprocal_ranks)
    assert ids(hits) == ["b", "a", "c"]
    assert [hit.score for hit in hits] == [1 / 62 + 1 / 61, 1 / 61, 1 / 62]


def test_weighted_scores_by_hand():
    lists = [make_hits(a=10, b=5, c=0), make_hits(c=0.3, b=0.2, d=0.1)]
    hits = fuse(lists, [0.25, 0.75], scaled_scores)
    assert ids(hits) == ["c", "b", "a", "d"]
    assert [hit.score for hit in hits] == pytest.approx([0.75, 0.125 + 0.375, 0.25, 0])


def test_ties_are_broken_by_id():
    assert ids(fuse([make_hits(b=1), make_hits(a=1)], [1, 1], reciprocal_ranks)) == ["a", "b"]


def test_scores_that_are_all_equal_count_fully():
    assert scaled_scores(make_hits(a=-3, b=-3)) == [1, 1]
    assert scaled_scores([]) == []


hit_lists = st.lists(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-5, 5), max_size=6).map(
        lambda scores: sorted(make_hits(**scores), key=lambda h: (-h.score, h.passage_id))
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)  # other processes may slow it down
@given(hit_lists, st.integers(0, 100))
def test_reciprocal_ranks_against_exact_arithmetic(lists, constant):
    hits = fuse(lists, [1.0] * len(lists), lambda hits: reciprocal_ranks(hits, constant))
    exact = {
        id: sum(
            Fraction(1, constant + 1 + ids(found).index(id)) for found in lists if id in ids(found)
        )
        for found in lists
        for id in ids(found)
    }
    assert {hit.passage_id: hit.score for hit in hits} == pytest.approx(
        {id: float(score) for id, score in exact.items()}
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@settings(deadline=None)  # other processes may slow it down
@given(hit_lists, st.floats(0.5, 100), st.floats(-10, 10))
def test_weighted_fusion_does_not_see_the_scale_of_scores(lists, factor, shift):
    moved = [[Hit(h.passage_id, factor * h.score + shift) for h in hits] for hits in lists]
    weights = [float(i + 1) for i in range(len(lists))]
    before = {h.passage_id: h.score for h in fuse(lists, weights, scaled_scores)}
    after = {h.passage_id: h.score for h in fuse(moved, weights, scaled_scores)}
    assert after == pytest.approx(before)


@settings(deadline=None)  # other processes may slow it down
@given(hit_lists)
def test_a_fusion_of_one_keeps_its_order(lists):
    for method in ("rrf", "weighted"):
        (hits,) = FusedRetriever({"one": Fixed(lists[0])}, Fusion(method)).search(["q"], 100)
        assert ids(hits) == ids(lists[0]) or method == "weighted"  # whose rounding may create ties


def test_the_parts_are_asked_as_deep_as_needed():
    part = Fixed(make_hits(**{f"p{i}": -i for i in range(9)}))
    fused = FusedRetriever({"x": part}, Fusion(depth=5))
    assert ids(fused.search(["q"], 2)[0]) == ["p0", "p1"]
    assert len(fused.search(["q"], 7)[0]) == 7
    assert part.depths == [5, 7]


def test_a_part_of_weight_zero_is_not_asked():
    part, other = Fixed(make_hits(a=1)), Fixed(make_hits(b=1))
    fused = FusedRetriever({"x": part, "y": other}, Fusion(weights={"x": 1, "y": 0}))
    assert fused.search(["q", "r"], 3) == [[Hit("a", 1 / 61)]] * 2
    assert other.depths == []


def test_nothing_found_and_nothing_asked():
    fused = FusedRetriever({"x": WordRetriever(CORPUS), "y": Fixed([])})
    assert [ids(hits) for hits in fused.search(["", "fish", "zebra"], 9)] == [[], ["a", "b"], []]
    assert fused.search([], 9) == []


def test_the_fingerprint_is_of_parts_and_settings():
    def fingerprint(a="a", b="b", **settings):
        return FusedRetriever(
            {"a": Fixed([], a), "b": Fixed([], b)}, Fusion(**settings)
        ).fingerprint

    variants = [
        fingerprint(),
        fingerprint(b="c"),
        fingerprint(method="weighted"),
        fingerprint(depth=7),
        fingerprint(rank_constant=7),
        fingerprint(weights={"a": 1, "b": 2}),
        fingerprint(weights={"a": 2, "b": 1}),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint() == fingerprint(weights={"b": 1, "a": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "sum"},
            r"method must be one of rrf, weighted, got 'sum'; set method",
        ),
        ({"depth": 0}, r"depth must be positive, got 0; set depth"),
        ({"rank_constant": -1}, "rank_constant must be a number from 0 on, got -1"),
        ({"rank_constant": math.nan}, "rank_constant must be a number from 0 on, got nan"),
        ({"weights": {"x": -1}}, r"weight must be a number from 0 on, got -1 for 'x'; set .*\.x"),
        ({"weights": {"x": math.inf}}, "weight must be a number from 0 on, got inf for 'x'"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Fusion(**settings)


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ([], None, "(hybrid|fusion) needs at least one retriever, got none"),
        (["x"], {"y": 1}, "expected a weight for each of x, got weights for y; set"),
        (["x", "y"], {"x": 1}, "expected a weight for each of x, y, got weights for x"),
        (["x"], {}, "expected a weight for each of x, got weights for none"),
        (["x", "y"], {"x": 0, "y": 0}, "at least one weight must be positive"),
    ],
)
def test_weights_must_fit_the_retrievers(names, weights, message):
    with pytest.raises(ValueError, match=message):
        FusedRetriever({name: Fixed([]) for name in names}, Fusion(weights=weights))
    with pytest.raises(ValueError, match=message):
        HybridSettings({name: WordSettings() for name in names}, Fusion(weights=weights))


def parts(**folders):
    return {name: BM25Settings(folder) for name, folder in folders.items()}


def test_a_part_without_a_folder_gets_one_in_that_of_the_whole():
    whole = HybridSettings(parts(a=None, b="there"), index_dir="DIR")
    folders = {name: str(part.index_dir) for name, part in whole.retrievers.items()}  # type: ignore[attr-defined]
    assert folders == {"a": "DIR/a", "b": "there"}
    assert HybridSettings(parts(a="here", b="there")).index_dir is None
    with pytest.raises(
        ValueError,
        match=r"the part 'b' needs a folder .* none; set index_dir, which .* index_dir of 'b'",
    ):
        HybridSettings(parts(a="here", b=None))


def test_settings_build_and_open_every_part():
    corpus: Any = CORPUS  # a mapping suffices for the retrievers of this test
    settings = HybridSettings({"a": WordSettings("x"), "b": WordSettings("y")})
    assert settings.build(corpus) == {
        "bytes": 20,
        **{"a/bytes": 10, "a/passages": 4, "b/bytes": 10, "b/passages": 4},
    }
    fused = settings.open(corpus)
    assert ids(fused.search(["red fish"], 3)[0]) == ["a", "b", "c"]
    assert fused.fingerprint != HybridSettings({"a": WordSettings("x")}).open(corpus).fingerprint
