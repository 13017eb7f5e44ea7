"""Faults of a dense index: builds and changes that are killed, and flipped bits in its files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from plumbing.storage.manifest import FolderError
from retrieval.dense.faiss_settings import HNSW
from retrieval.dense.index import DenseSettings
from retrieval.passage import Passage
from tests.helpers.faults import flipped, killed
from tests.helpers.tiny_encoders import WordEncoderSettings, make_corpus, make_passages

pytestmark = pytest.mark.filterwarnings(
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"  # FAISS's bindings
)

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "4"))  # kills in each test; 100 take minutes
FLIPS = int(os.environ.get("FAULT_FLIPS", "100"))  # in each test

PROGRAM = """
import sys, time
import faiss, safetensors.numpy
from retrieval.dense import encoding
from retrieval.corpus.corpus import Corpus
from retrieval.dense.index import DenseSettings
from retrieval.passage import Passage
from retrieval.dense.faiss_settings import HNSW
from tests.helpers.tiny_encoders import WordEncoderSettings
path, cache, index = sys.argv[1:]
settings = DenseSettings(
    index, WordEncoderSettings(), kind="hnsw", hnsw=HNSW(8, 40), shard_rows=20, threads=1
)
corpus = Corpus.open(path, cache)
"""
BUILD = """
store = encoding.store_shard
def store_slowly(*given):
    name = store(*given)
    print(name, flush=True)
    time.sleep(0.01)
encoding.store_shard = store_slowly
print("begins", flush=True)
settings.build(corpus)
print("built", flush=True)
sys.stdin.read()
"""
CHANGE = """
opened = settings.open(corpus)
print("begins", flush=True)
for number in range(1000):
    opened.update(add=[Passage("moving", "", f"step {number}")], remove=["moving"])
    print(number, flush=True)
"""


def settings_for(folder):
    encoder, graph = WordEncoderSettings(), HNSW(8, 40)
    return DenseSettings(folder, encoder, kind="hnsw", hnsw=graph, shard_rows=20, threads=1)


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path, make_passages(200))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_builds_are_whole_or_not_there_and_go_on(tmp_path, corpus):
    settings_for(tmp_path / "whole").build(corpus)
    whole = files(tmp_path / "whole")
    random = Random(0)
    reached = set()
    for number in range(ROUNDS):
        index = tmp_path / f"index-{number}"
        arguments = [str(corpus.path), str(tmp_path / "cache"), str(index)]
        said = killed(PROGRAM + BUILD, arguments, random.uniform(0, 0.25))
        acknowledged = [name for name in said if name.startswith("shard-")]
        reached.add(len(acknowledged))
        if "built" in said:
            settings_for(index).open(corpus)
        elif not index.exists():
            with pytest.raises(FolderError, match="nothing was built here"):
                settings_for(index).open(corpus)
            kept = tmp_path / f".index-{number}.encoding"
            for name in acknowledged:
                assert (kept / name).read_bytes() == whole[name]
        settings_for(index).build(corpus)
        assert files(index) == whole
    assert len(reached) > 1  # otherwise all kills came at the same moment


@pytest.mark.slow
def test_killed_changes_took_place_or_did_not(tmp_path, corpus):
    index = tmp_path / "index"
    now = "step before"
    settings_for(index).build(with_moving(tmp_path, now))
    random = Random(1)
    for _ in range(ROUNDS):
        path = with_moving(tmp_path, now).path
        arguments = [str(path), str(tmp_path / "cache"), str(index)]
        said = killed(PROGRAM + CHANGE, arguments, random.uniform(0, 0.3))
        done = [int(line) for line in said if line.isdigit()]
        # The index has the last change that was printed, or the one that was in progress.
        possible = {f"step {done[-1]}" if done else now, f"step {len(done)}"}
        corpora = {text: with_moving(tmp_path, text) for text in possible}
        found = [text for text in possible if opens(settings_for(index), corpora[text])]
        assert len(found) == 1
        now = found[0]


def with_moving(folder, text):
    """A corpus whose passage "moving", which `CHANGE` replaces, has this text."""
    passages = [*make_passages(200), Passage("moving", "", text)]
    return make_corpus(folder, passages, text.replace(" ", "-"))


def opens(settings, corpus):
    try:
        return len(settings.open(corpus)) == len(corpus)
    except FolderError:
        return False


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_flipped_bits_are_detected_before_any_result(tmp_path, corpus, kind):
    settings = replace(settings_for(tmp_path / "index"), kind=kind)
    settings.build(corpus)
    index = settings.open(corpus)
    index.remove(["p3", "p5"])
    passages = [p for p in corpus.passages() if p.id not in ("p3", "p5")]
    left = make_corpus(tmp_path, passages, "left")
    settings.open(left)
    random = Random(2)
    paths = sorted(Path(settings.index_dir).iterdir())
    assert len(paths) == 10 + 3 + (kind == "hnsw")
    for _ in range(FLIPS):
        path = random.choice(paths)
        with flipped(path, random) as where:
            assert not opens(settings, left), f"{where} was not noticed"
    settings.open(left)


@pytest.mark.parametrize("size", [0, 10])
def test_files_that_are_cut_off_or_missing_are_detected(tmp_path, corpus, size):
    settings = settings_for(tmp_path / "index")
    settings.build(corpus)
    for path in sorted(Path(settings.index_dir).iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:size])
        with pytest.raises(FolderError, match=path.name):
            settings.open(corpus)
        path.unlink()
        with pytest.raises(FolderError, match=path.name):
            settings.open(corpus)
        path.write_bytes(content)
    settings.open(corpus)


@pytest.mark.parametrize("rounds", [20])
def test_flipped_bits_of_an_interrupted_encoding_are_encoded_again(tmp_path, corpus, rounds):
    settings_for(tmp_path / "whole").build(corpus)
    whole = files(tmp_path / "whole")
    random = Random(3)
    shards = [name for name in whole if name.startswith("shard")]
    for number in range(rounds):
        part = tmp_path / f".index-{number}.encoding"
        part.mkdir()
        (part / "encoding.json").write_bytes(whole["encoding.json"])
        for name in shards:
            damaged = bytearray(whole[name])
            if random.random() < 0.5:
                damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
            (part / name).write_bytes(damaged)
        settings_for(tmp_path / f"index-{number}").build(corpus)
        assert files(tmp_path / f"index-{number}") == whole
