"""Shards: writing and reading them, finding damaged ones, and encoding after interruptions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from plumbing.engines.engines import PlainEngine
from plumbing.storage.manifest import FolderError
from retrieval.dense.embeddings import Embeddings
from retrieval.dense.encoding import EncodingJob, default_shard_rows, encode_corpus
from retrieval.dense.shard import Rows, Shard, find_shards, repacked, store_shard
from retrieval.passage import Passage, passage_digest
from tests.helpers.tiny_encoders import WordEncoderSettings, make_corpus, make_passages

IDS = ["p1", "a/../b", "", "ünï", "\x00", "p1 ", "🜚" * 40]


def make_rows(count, storage="float32", seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 4), np.float32)
    return Rows.of(make_passages(count, seed), vectors, storage)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_shard_holds_what_was_put_in(tmp_path, storage):
    passages = [Passage(id, "title", f"text {id}") for id in IDS]
    vectors = np.random.default_rng(0).standard_normal((len(IDS), 5), np.float32)
    name = store_shard(tmp_path, 3, Rows.of(passages, vectors, storage).to_bytes())
    shard = Shard(tmp_path / name)
    assert [shard.id(row) for row in range(len(shard))] == IDS
    assert [d.tobytes() for d in shard.digests] == [passage_digest(p) for p in passages]
    assert np.array_equal(shard.vectors_ND, vectors.astype(storage))
    # An independent reader finds the same.
    tensors = load_file(tmp_path / name)
    assert np.array_equal(tensors["vectors"], vectors.astype(storage))
    assert tensors["id_bytes"].tobytes().decode() == "".join(IDS)


def test_equal_rows_give_equal_bytes_and_the_name_is_their_hash(tmp_path):
    first, second = make_rows(9).to_bytes(), make_rows(9).to_bytes()
    assert first == second
    name = store_shard(tmp_path, 0, first)
    assert store_shard(tmp_path, 0, second) == name
    assert find_shards(tmp_path) == {0: name}
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_shards_are_not_found_and_are_removed(tmp_path):
    names = [store_shard(tmp_path, number, make_rows(3).to_bytes()) for number in range(3)]
    content = bytearray((tmp_path / names[1]).read_bytes())
    content[-1] ^= 1
    (tmp_path / names[1]).write_bytes(content)
    (tmp_path / names[2]).rename(tmp_path / "shard-000002-abc.safetensors")
    assert find_shards(tmp_path) == {0: names[0]}
    assert [path.name for path in tmp_path.iterdir()] == [names[0]]


@pytest.mark.parametrize(
    ("value", "storage"), [(np.nan, "float32"), (np.inf, "float32"), (7e4, "float16")]
)
def test_vectors_that_cannot_be_stored(value, storage):
    vectors = np.zeros((3, 4), np.float32)
    vectors[1, 2] = value
    with pytest.raises(ValueError, match=f"vector of passage 'p1' is not finite in {storage}; set"):
        Rows.of(make_passages(3), vectors, storage)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 8))
def test_repacking_keeps_all_rows_in_order(counts, size):
    parts = [make_rows(count, seed=number) for number, count in enumerate(counts)]
    packed = list(repacked(parts, size))
    assert all(len(rows) == size for rows in packed[:-1])
    assert [id for rows in packed for id in rows.ids] == [id for rows in parts for id in rows.ids]
    if packed:
        vectors = np.concatenate([rows.vectors_ND for rows in parts])
        assert np.array_equal(np.concatenate([rows.vectors_ND for rows in packed]), vectors)


@pytest.fixture
def embeddings(tmp_path):
    rows = make_rows(25)
    parts = enumerate(repacked([rows], 8))
    names = [store_shard(tmp_path, number, part.to_bytes()) for number, part in parts]
    return rows, Embeddings(tmp_path, names, 8, 4)


@settings(max_examples=50, deadline=None)
@given(chosen=st.lists(st.integers(0, 24), min_size=1, max_size=60))
def test_rows_are_read_across_shards(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp("rows", numbered=True)
    rows = make_rows(25)
    parts = enumerate(repacked([rows], 8))
    names = [store_shard(folder, number, part.to_bytes()) for number, part in parts]
    read = Embeddings(folder, names, 8, 4).vectors(np.array(chosen))
    assert np.array_equal(read, rows.vectors_ND[chosen])


def test_ids_and_digests_by_row_and_rows_by_id(embeddings):
    rows, mapped = embeddings
    assert mapped.rows == 25
    assert [mapped.id(row) for row in range(25)] == [id.decode() for id in rows.ids]
    assert mapped.digest(17) == rows.digests[17].tobytes()
    assert mapped.find(["p24", "p0", "nobody"]) == {"p24": [24], "p0": [0]}


def test_an_equal_hash_is_not_an_equal_id(embeddings, monkeypatch):
    _, mapped = embeddings
    hashes = {"p3": int(mapped.shards[0].id_hashes[3])}
    hashes["impostor"] = hashes["p3"]
    monkeypatch.setattr("retrieval.dense.embeddings.id_hash", hashes.get)
    assert mapped.find(["impostor", "p3"]) == {"p3": [3]}
    assert mapped.find(["impostor"]) == {}


def test_float16_is_read_as_float32(tmp_path):
    rows = make_rows(5, "float16")
    mapped = Embeddings(tmp_path, [store_shard(tmp_path, 0, rows.to_bytes())], 8, 4)
    ((start, block),) = mapped.blocks()
    assert start == 0
    assert block.dtype == mapped.vectors(np.array([2])).dtype == np.float32
    assert np.array_equal(block, rows.vectors_ND.astype(np.float32))


class Interrupted(PlainEngine):
    """Stops after some shards, like a process that is killed."""

    def __init__(self, shards):
        self.left, self.asked = shards, []

    def run(self, job, numbers):
        self.asked = list(numbers)
        super().run(job, self.asked[: self.left])
        if self.left < len(self.asked):
            raise KeyboardInterrupt


@pytest.fixture
def job(tmp_path):
    corpus = make_corpus(tmp_path, make_passages(50))
    return EncodingJob(corpus, WordEncoderSettings(), "float32", 8)


def test_an_interrupted_encoding_goes_on_with_what_is_missing(tmp_path, job):
    whole = encode_corpus(job, PlainEngine(), tmp_path / "whole")
    assert len(whole) == job.shards == 7
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(job, Interrupted(3), part)
    damaged = part / whole[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    engine = Interrupted(7)
    assert encode_corpus(job, engine, part) == whole
    assert engine.asked == [1, 3, 4, 5, 6]
    assert {p.name: p.read_bytes() for p in part.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
    }
    engine = Interrupted(0)
    encode_corpus(job, engine, part)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shard_rows": 9}, "shard_rows is 8, now it is 9"),
        ({"storage": "float16"}, "storage is 'float32', now it is 'float16'"),
        ({"maker": WordEncoderSettings(name="others")}, "encoder is .*'words'.* now it is .*other"),
    ],
)
def test_going_on_with_other_settings_is_an_error(tmp_path, job, change, named):
    encode_corpus(job, PlainEngine(), tmp_path / "part")
    with pytest.raises(FolderError, match=f"encoding of other settings: .*{named}"):
        encode_corpus(replace(job, **change), PlainEngine(), tmp_path / "part")


def test_going_on_with_other_passages_is_an_error(tmp_path, job):
    encode_corpus(job, PlainEngine(), tmp_path / "part")
    other = replace(job, corpus=make_corpus(tmp_path, make_passages(50, seed=1), "other"))
    with pytest.raises(FolderError, match="its corpus is "):
        encode_corpus(other, PlainEngine(), tmp_path / "part")


def test_a_damaged_plan(tmp_path, job):
    encode_corpus(job, PlainEngine(), tmp_path / "part")
    (tmp_path / "part" / "encoding.json").write_text("{")
    with pytest.raises(FolderError, match=r"encoding\.json: damaged .*; remove the folder to"):
        encode_corpus(job, PlainEngine(), tmp_path / "part")


def test_shards_without_a_plan_are_not_trusted(tmp_path, job):
    encode_corpus(job, PlainEngine(), tmp_path / "part")
    (tmp_path / "part" / "encoding.json").unlink()
    engine = Interrupted(7)
    encode_corpus(job, engine, tmp_path / "part")
    assert engine.asked == list(range(7))
    assert json.loads((tmp_path / "part" / "encoding.json").read_text())["passages"] == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage": "int8"}, "storage must be one of float32, float16, got 'int8'; set storage"),
        ({"shard_rows": 0}, r"shard_rows must be positive, got 0; set shard_rows"),
    ],
)
def test_impossible_jobs(tmp_path, job, change, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(replace(job, **change), PlainEngine(), tmp_path / "part")


def test_no_passages(tmp_path, job):
    empty = replace(job, corpus=make_corpus(tmp_path, [], "empty"))
    with pytest.raises(ValueError, match=r"a corpus with passages, got none; name another"):
        encode_corpus(empty, PlainEngine(), tmp_path / "part")


@pytest.mark.parametrize(
    ("passages", "rows"), [(1, 4096), (70_602, 4096), (1_048_576, 4096), (21_015_324, 86_016)]
)
def test_there_are_never_more_than_256_shards(passages, rows):
    assert default_shard_rows(passages) == rows
    assert -(-passages // rows) <= 256
