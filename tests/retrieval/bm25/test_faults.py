"""Faults of a BM25 index: builds and changes that are killed, and flipped bits in its files."""

from __future__ import annotations

import os
from dataclasses import asdict
from random import Random

import pytest

from plumbing.storage.jsonl import write_jsonl
from plumbing.storage.manifest import FolderError
from retrieval.bm25.index import BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
from tests.helpers.faults import flipped, killed

FLIPS = int(os.environ.get("FAULT_FLIPS", "500"))
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))  # kills in each test; 100 take minutes

# Each program prints "begins" once the JVM runs. Nothing is written before that.
BUILD = """
import sys
from retrieval.bm25.index import BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.bm25.java import start_java
import retrieval.bm25.lucene
start_java()
import pyserini.index.lucene
path, cache, index = sys.argv[1:]
print("begins", flush=True)
BM25Settings(index).build(Corpus.open(path, cache))
print("built", flush=True)
sys.stdin.read()
"""
CHANGE = """
import sys
from retrieval.bm25.index import BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
path, cache, index = sys.argv[1:]
open_index = BM25Settings(index).open(Corpus.open(path, cache))
print("begins", flush=True)
for number in range(1000):
    passage = Passage("moving", "", f"step {number}")
    open_index.update(add=[passage], remove=["moving"])
    print(number, flush=True)
"""

WORDS = "lisbon porto rome temple sea city port river bridge castle street market".split()


def make_passages(count):
    random = Random(1)
    texts = [" ".join(random.choices(WORDS, k=30)) for _ in range(count)]
    return [Passage(f"p{i}", "", text) for i, text in enumerate(texts)]


def corpus_of(tmp_path, passages):
    write_jsonl(tmp_path / "corpus.jsonl", map(asdict, passages))
    return Corpus.open(tmp_path / "corpus.jsonl", tmp_path / "cache")


def paths(tmp_path, index):
    return [str(tmp_path / "corpus.jsonl"), str(tmp_path / "cache"), str(index)]


@pytest.mark.slow
def test_a_killed_build_is_whole_or_nothing(tmp_path):
    corpus = corpus_of(tmp_path, make_passages(3_000))
    whole = BM25Settings(tmp_path / "whole")
    whole.build(corpus)
    expected = whole.open(corpus).search(WORDS, 20)
    random, nothing = Random(2), 0
    for number in range(ROUNDS):
        folder = tmp_path / f"index{number % 3}"  # some folders hold the remains of a crashed build
        settings = BM25Settings(folder)
        said = killed(BUILD, paths(tmp_path, folder), random.uniform(0, 1.5))
        if not folder.exists():
            assert "built" not in said
            nothing += 1
            with pytest.raises(FolderError, match="nothing was built here"):
                settings.open(corpus)
            settings.build(corpus)
        index = settings.open(corpus)
        assert index.search(WORDS, 20) == expected
        index.remove(["p0"])  # so that the next round can add it again
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        assert not list(tmp_path.glob(".index*.building"))
    assert nothing


@pytest.mark.slow
def test_a_killed_change_is_whole_or_nothing(tmp_path):
    passages = make_passages(200)
    settings, state = BM25Settings(tmp_path / "index"), Passage("moving", "", "step none")
    settings.build(corpus_of(tmp_path, [*passages, state]))
    random = Random(3)
    for _ in range(ROUNDS):
        corpus_of(tmp_path, [*passages, state])
        said = killed(CHANGE, paths(tmp_path, settings.index_dir), random.uniform(0, 1.5))
        done = int(said[-1]) if len(said) > 1 else -1
        before = state if done < 0 else Passage("moving", "", f"step {done}")
        after = Passage("moving", "", f"step {done + 1}")  # published, but not yet printed
        try:
            index = settings.open(corpus_of(tmp_path, [*passages, before]))
            state = before
        except FolderError:
            index = settings.open(corpus_of(tmp_path, [*passages, after]))
            state = after
        (hit, *_), *_ = index.search([state.text.rpartition(" ")[2], "lisbon"], 5)
        assert hit.passage_id == "moving"
        index.compact()  # removes what the killed writer left
        assert len(list((tmp_path / "index").glob("segments-*"))) == 1


def test_every_flipped_bit_is_found_before_a_result_is_served(tmp_path):
    corpus = corpus_of(tmp_path, make_passages(300))
    settings = BM25Settings(tmp_path / "index")
    settings.build(corpus)
    index = settings.open(corpus)
    index.remove(["p7"])
    corpus = corpus_of(tmp_path, [p for p in make_passages(300) if p.id != "p7"])
    expected = settings.open(corpus).search(WORDS, 5)
    files = [p for p in (tmp_path / "index").rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 10
    random = Random(4)
    for number in range(FLIPS):
        with flipped(files[number % len(files)], random) as which:
            try:
                settings.open(corpus)
            except FolderError:
                continue
            pytest.fail(f"not found: {which}")
    assert settings.open(corpus).search(WORDS, 5) == expected


def test_missing_and_cut_files_are_found(tmp_path):
    corpus = corpus_of(tmp_path, make_passages(20))
    settings = BM25Settings(tmp_path / "index")
    settings.build(corpus)
    for path in (tmp_path / "index").rglob("*"):
        if path.is_dir() or not path.stat().st_size:
            continue
        content = path.read_bytes()
        path.write_bytes(content[:-2])
        with pytest.raises(FolderError, match=r"damaged|expected \d+ bytes"):
            settings.open(corpus)
        path.unlink()
        with pytest.raises(FolderError, match=r"got no such file|found no manifest"):
            settings.open(corpus)
        path.write_bytes(content)
    assert len(settings.open(corpus)) == 20


def test_building_over_a_damaged_index_says_what_to_do(tmp_path):
    corpus = corpus_of(tmp_path, make_passages(20))
    settings = BM25Settings(tmp_path / "index")
    settings.build(corpus)
    with (
        flipped(tmp_path / "index" / "manifest.json", Random(0)),
        pytest.raises(FolderError, match=r"remove the folder, or set another index_dir"),
    ):
        settings.build(corpus)
