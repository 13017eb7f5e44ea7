"""The benchmark of retrieval compares equal things, and knows how an index grows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from benchmarks import retrieval as retrieval_benchmark
from benchmarks.run import run_suite
from plumbing.storage.jsonl import write_jsonl
from qa.data.bios import generate
from retrieval.corpus.corpus import Corpus

ROOT = Path(__file__).parents[2]
SUITES = {"retrieval": "benchmarks.retrieval.retrieval_suite"}


@pytest.fixture
def corpus_path(tmp_path):
    dataset = generate(
        seed=0,
        train_entities=40,
        dev_entities=6,
        distractor_entities=0,
        test_entities=0,
        unseen_entities=0,
    )
    write_jsonl(tmp_path / "passages.jsonl", map(asdict, dataset.passages.values()))
    return tmp_path / "passages.jsonl"


def composed(tmp_path, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(
            "benchmark", ["suite=retrieval", f"paths.output_dir={tmp_path}/out", *overrides]
        )


def test_a_smaller_corpus_is_a_prefix_and_a_larger_one_recombines(corpus_path, tmp_path):
    corpus = Corpus.open(corpus_path, cache_dir=tmp_path / "cache")
    all_ids = list(corpus)
    smaller = list(retrieval_benchmark.resized(corpus, 10))
    assert [passage.id for passage in smaller] == all_ids[:10]
    larger = list(retrieval_benchmark.resized(corpus, 100))
    assert [passage.id for passage in larger[: len(all_ids)]] == all_ids
    assert len({passage.id for passage in larger}) == 100
    known = {part for passage in corpus.passages() for part in passage.text.split(". ")}
    assert set(larger[-1].text.split(". ")) <= known
    assert larger == list(retrieval_benchmark.resized(corpus, 100))


def test_a_line_through_two_measurements():
    before, last = {"passages": 10, "s": 1.0}, {"passages": 30, "s": 2.0}
    assert retrieval_benchmark.extrapolated(before, last, 50) == {"passages": 50, "s": 3.0}


def test_without_a_corpus_it_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"give corpus\.path=FILE"):
        run_suite(composed(tmp_path), SUITES)


@pytest.mark.slow
def test_the_suite_measures_bm25_beside_its_peer(corpus_path, tmp_path):
    small = ["retrieval.questions=20", "retrieval.single=5", "retrieval.sizes=[20,60]"]
    data = ["data.train_entities=40", "data.dev_entities=6", "data.distractor_entities=0"]
    here = [f"corpus.path={corpus_path}", f"paths.cache_dir={tmp_path}/cache", "rounds=1"]
    result = run_suite(composed(tmp_path, *small, *data, *here), SUITES)
    assert result["overlap"] > 0.9
    assert set(result["speed"]) == {"bm25", "bm25s"}
    assert [row["passages"] for row in result["growth"]] == [20, 60]
    assert "about 21,015,324" in (tmp_path / "out/retrieval.md").read_text()
