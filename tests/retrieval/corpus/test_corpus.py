from __future__ import annotations

import copy
import csv
import gzip
import logging
import tracemalloc
from dataclasses import asdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError, write_jsonl
from plumbing.storage.manifest import FolderError
from retrieval.bm25.index import BM25Settings
from retrieval.corpus import build as corpus_build
from retrieval.corpus import corpus as corpus_module
from retrieval.corpus import store as corpus_store
from retrieval.corpus.corpus import Corpus
from retrieval.corpus.formats import CONTROL
from retrieval.dense.index import DenseSettings
from retrieval.fusion import HybridSettings
from retrieval.passage import Passage, SetHash, corpus_hashes, passage_digest
from tests.helpers.faults import flipped
from tests.helpers.tiny_encoders import WordEncoderSettings

WORDS = WordEncoderSettings()
ROW = b'{"id": "1", "title": "", "text": "t"}\n'

PASSAGES = [
    Passage("b", "Lisbon", 'Lisbon is the "capital"\tof Portugal.\nIt lies by the sea.'),
    Passage("../a", "", "Tejo é um rio 😀."),
    Passage("7", "Seven\nSeas", "No 7"),
]


def write_corpus(path, passages=PASSAGES):
    """Write a corpus file in the format that its name says."""
    if ".tsv" not in path.name:
        write_jsonl(path, map(asdict, passages))
        return path
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["id", "text", "title"])
        writer.writerows([p.id, p.text, p.title] for p in passages)
    return path


def opened(tmp_path, name="c.jsonl", passages=PASSAGES, **options):
    return Corpus.open(write_corpus(tmp_path / name, passages), tmp_path / "cache", **options)


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "psgs_w100.tsv", "c.tsv.gz"])
def test_every_form_gives_the_same_corpus(tmp_path, name):
    corpus = opened(tmp_path, name)
    assert len(corpus) == 3
    assert list(corpus) == ["b", "../a", "7"]
    assert list(corpus.passages()) == list(corpus.values()) == PASSAGES
    assert (corpus.sha256, corpus.members) == corpus_hashes(PASSAGES)
    assert corpus.skipped == 0


def test_access_by_id_and_by_row(tmp_path):
    corpus = opened(tmp_path)
    assert corpus["../a"] == corpus.row(1) == PASSAGES[1]
    assert corpus.rows(["7", "b", "7"]) == [2, 0, 2]
    assert list(corpus.passages(1, 3)) == PASSAGES[1:3]
    assert "b" in corpus
    for unknown in ("B", "", "\ud800", 7):
        assert unknown not in corpus
    with pytest.raises(KeyError, match=r"c\.jsonl: no passage has the id 'B'"):
        corpus["B"]
    with pytest.raises(KeyError, match="no passage has the id 'x'"):
        corpus.rows(["b", "x"])
    for row in (-1, 3):
        with pytest.raises(IndexError, match=f"has rows 0 to 2, got {row}"):
            corpus.row(row)


@pytest.mark.parametrize(
    ("name", "content", "came"),
    [
        ("c.jsonl", b"", "none"),
        ("c.jsonl", b"\n", "none"),
        ("c.jsonl", b"\xef\xbb\xbf\n \r\n", "none"),
        ("c.jsonl.gz", gzip.compress(b"\n", mtime=0), "none"),
        ("c.tsv", b"id\ttext\ttitle", "none"),
        ("c.tsv", b"id\ttext\ttitle\r\n\r\n", "none"),
        ("c.tsv", b"id\ttext\ttitle\n1\t\tT\n", "none but 1 malformed lines"),
    ],
)
@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_an_empty_corpus_is_refused_for_every_retriever(tmp_path, name, content, came, kind):
    (tmp_path / name).write_bytes(content)
    corpus = Corpus.open(tmp_path / name, tmp_path / "cache", on_error="skip")
    assert (len(corpus), list(corpus), "a" in corpus) == (0, [], False)
    bm25, dense = BM25Settings(tmp_path / "bm25"), DenseSettings(tmp_path / "dense", WORDS)
    hybrid = HybridSettings({"bm25": bm25, "dense": dense})
    every: dict[str, Any] = {"bm25": bm25, "dense": dense, "hybrid": hybrid}
    with pytest.raises(DataError, match=rf"{name}: expected a corpus with passages, got {came}; n"):
        every[kind].build(corpus)
    assert not (tmp_path / kind).exists()


def test_it_can_be_sent_to_another_process(tmp_path):
    corpus = copy.copy(opened(tmp_path))  # a copy uses the same methods as pickling
    assert corpus["7"] == PASSAGES[2]


def test_order_counts_in_one_hash_and_not_in_the_other(tmp_path):
    one = opened(tmp_path, "one.jsonl")
    two = opened(tmp_path, "two.jsonl", PASSAGES[::-1])
    assert one.sha256 != two.sha256
    assert one.members == two.members
    other = SetHash(one.members)
    other.remove(passage_digest(PASSAGES[0]))
    assert other.hexdigest() == corpus_hashes(PASSAGES[1:])[1]


def test_hashes_tell_where_fields_end():
    assert passage_digest(Passage("a", "b", "c")) != passage_digest(Passage("ab", "", "c"))


BAD_LINES = [
    (b"{", "which is not JSON"),
    (b"[]", "expected a JSON object, got a list"),
    (b'{"id": "x", "title": ""}', "expected the key 'text'"),
    (b'{"id": 3, "title": "", "text": "t"}', "'id' must be a string, got a number"),
    (b'{"id": "x", "title": "", "text": " "}', "'text' must hold some text"),
    (b'{"id": "x", "title": "", "text": "\\u0001"}', "got control characters only"),
    (b'{"id": "x", "title": "", "text": "\xff"}', "expected UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_malformed_lines_are_fatal_or_skipped(tmp_path, caplog, line, message):
    path = write_corpus(tmp_path / "c.jsonl")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"", line, *lines[1:]]))
    with pytest.raises(DataError, match=rf"c\.jsonl:3: .*{message}"):
        Corpus.open(path, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        corpus = Corpus.open(path, tmp_path / "cache", on_error="skip")
    assert list(corpus.passages()) == PASSAGES
    assert corpus.skipped == 1
    assert message in caplog.text
    assert "1 lines were skipped; " in caplog.text
    (listed,) = (tmp_path / "cache").rglob("skipped.txt")
    assert listed.read_text().startswith(f"{path}:3: ")


BAD_ROWS = [
    (b"x\ttext", "expected 3 columns .* got 2"),
    (b"x\ttext\ttitle\tmore", "got 4"),
    (b"x\t\t title", "'text' must hold some text"),
    (b"x\t\xff\ttitle", "expected UTF-8"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_malformed_rows_are_fatal_or_skipped(tmp_path, row, message):
    path = write_corpus(tmp_path / "c.tsv")
    rest = path.read_bytes()
    end = rest.index(b"\n") + 1
    path.write_bytes(rest[:end] + row + b"\n" + rest[end:])
    with pytest.raises(DataError, match=rf"c\.tsv:2: .*{message}"):
        Corpus.open(path, tmp_path / "cache")
    corpus = Corpus.open(path, tmp_path / "cache", on_error="skip")
    assert list(corpus.passages()) == PASSAGES
    assert corpus.skipped == 1


def test_a_quote_that_is_never_closed(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text('id\ttext\ttitle\n1\tone\t\n2\t"two\t\n' + "filler\n" * 3_000 + "3\tthree\t\n")
    with pytest.raises(DataError, match=r"c\.tsv:4: expected 3 columns .* got 1"):
        Corpus.open(path, tmp_path / "cache")
    corpus = Corpus.open(path, tmp_path / "cache", on_error="skip")
    assert [corpus[id].text for id in corpus] == ["one", '"two', "three"]
    assert corpus.skipped == 3_000


def test_the_line_of_a_row_that_follows_a_longer_one(tmp_path):
    path = write_corpus(tmp_path / "c.tsv")  # the first passage takes two lines
    path.write_bytes(path.read_bytes() + b"x\n")
    with pytest.raises(DataError, match=r"c\.tsv:7: expected 3 columns"):
        Corpus.open(path, tmp_path / "cache")


def test_repeated_ids_are_fatal_or_skipped(tmp_path, caplog):
    again = [Passage("7", "", "another"), Passage("c", "", "last"), Passage("7", "", "a third")]
    path = write_corpus(tmp_path / "c.jsonl", PASSAGES + again)
    with pytest.raises(DataError, match=r"c\.jsonl:4: passage id '7' stands already at line 3"):
        Corpus.open(path, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        corpus = Corpus.open(path, tmp_path / "cache", on_error="skip")
    kept = [*PASSAGES, again[1]]
    assert list(corpus.passages()) == [corpus.row(row) for row in range(4)] == kept
    assert [corpus[p.id] for p in kept] == kept
    assert (corpus.sha256, corpus.members) == corpus_hashes(kept)
    assert corpus.skipped == 2
    assert "c.jsonl:6: passage id '7' stands already at line 3" in caplog.text


@pytest.mark.parametrize("buckets", [1, 3])
def test_different_ids_may_have_equal_hashes(tmp_path, monkeypatch, buckets):
    for module in (corpus_build, corpus_module):
        monkeypatch.setattr(module, "id_hash", lambda id: corpus_store.id_hash(id) % buckets)
    passages = [Passage(f"p{i}", "", f"text {i}") for i in range(20)]
    corpus = opened(tmp_path, passages=[*passages, passages[4]], on_error="skip")
    assert [corpus[p.id] for p in passages] == passages
    assert corpus.skipped == 1
    assert "q" not in corpus


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "none.jsonl",
            None,
            r"none\.jsonl: expected a corpus file, got 'No such file.*; set path",
        ),
        ("c.txt", b"x", r"named \*\.jsonl or \*\.tsv, or either with \.gz, got 'c\.txt'"),
        ("c.tsv", b"1\tone\ttitle\n", r"c\.tsv:1: expected the header id, text, title"),
        ("c.tsv", b"", r"c\.tsv:1: expected the header"),
        (
            "c.jsonl.gz",
            gzip.compress(ROW * 9, mtime=0)[:-9],
            "gzip",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_files_that_cannot_be_used(tmp_path, name, content, message, on_error):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Corpus.open(tmp_path / name, tmp_path / "cache", on_error=on_error)


def test_a_folder_is_no_corpus(tmp_path):
    with pytest.raises(DataError, match="expected a corpus file, found a folder"):
        Corpus.open(tmp_path, tmp_path / "cache")


def test_on_error_is_one_of_two(tmp_path):
    with pytest.raises(DataError, match=r"on_error must be one of raise, skip, got 'ignore'"):
        opened(tmp_path, on_error="ignore")


def test_the_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "write_store", None)
        assert Corpus.open(tmp_path / "c.jsonl", tmp_path / "cache")["7"] == PASSAGES[2]
    assert list(opened(tmp_path, passages=PASSAGES[:1])) == ["b"]


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write_corpus(tmp_path / "c.jsonl")

    def write(*arguments):
        corpus_build.write_store(*arguments)
        write_corpus(path, PASSAGES[:2])

    monkeypatch.setattr(corpus_module, "write_store", write)
    with pytest.raises(DataError, match="the corpus changed while it was read"):
        Corpus.open(path, tmp_path / "cache")


def test_a_build_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(DataError):
        opened(tmp_path, passages=[*PASSAGES, PASSAGES[0]])
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_flipped_bits_never_change_what_is_read(tmp_path, caplog):
    passages = [Passage(f"p{i}", f"title {i}", f"text {i}") for i in range(50)]
    opened(tmp_path, passages=passages)
    (store,) = (tmp_path / "cache" / "corpora").glob("c-*")
    random, refused = Random(0), 0
    files = ["records.bin", "starts.u64", "hashes.u64", "rows.u32", "manifest.json"]
    for file in random.choices(files, k=100):
        with flipped(store / file, random) as which:
            corpus = Corpus.open(tmp_path / "c.jsonl", tmp_path / "cache")  # repairs what it can
            for read in (Corpus.passages, Corpus.values):
                try:
                    assert list(read(corpus)) == passages, which
                except FolderError:
                    refused += 1
    assert refused  # a damaged record cannot be repaired


def test_a_damaged_record_names_the_folder_to_remove(tmp_path):
    opened(tmp_path)
    (records,) = (tmp_path / "cache").rglob("records.bin")
    with flipped(records, Random(0)):
        corpus = Corpus.open(tmp_path / "c.jsonl", tmp_path / "cache")
        with pytest.raises(FolderError, match=r"records\.bin: the side store .* remove the"):
            list(corpus.passages())


def test_memory_stays_flat(tmp_path, monkeypatch):
    count, buffer = 4_000, 10_000
    for module in (corpus_store, corpus_build):
        monkeypatch.setattr(module, "BUFFER", buffer)
    write_jsonl(
        tmp_path / "c.jsonl",
        ({"id": f"id {i}", "title": "a title", "text": "words " * 60} for i in range(count)),
    )
    tracemalloc.start()
    try:
        corpus = Corpus.open(tmp_path / "c.jsonl", tmp_path / "cache")
        assert sum(1 for _ in corpus.passages()) == count
        assert corpus["id 777"].title == "a title"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Sorting takes 20 bytes for each passage, and hashlib reads files in blocks of 256 KB.
    assert peak < 25 * count + 2**18 + 10 * buffer  # the file is 1.5 MB long


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SOLID = TEXT.filter(lambda text: text.strip() and text.strip(CONTROL))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.builds(Passage, SOLID, TEXT, SOLID), unique_by=lambda p: p.id, max_size=8))
def test_write_then_read_is_identity(tmp_path_factory, passages):
    corpus = opened(tmp_path_factory.mktemp("corpus"), passages=passages)
    assert list(corpus.passages()) == passages
    assert [corpus[p.id] for p in passages] == passages
