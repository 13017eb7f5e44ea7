from __future__ import annotations

import math
import os
import threading
from collections import Counter
from dataclasses import asdict, replace

import pytest

from plumbing.storage.folders import only_writer
from plumbing.storage.jsonl import DataError, write_jsonl
from plumbing.storage.manifest import FolderError, read_manifest
from retrieval import index_folder
from retrieval.bm25 import lucene
from retrieval.bm25.index import BM25Settings
from retrieval.bm25.java import java_class, start_java
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
from retrieval.retriever import Hit

PASSAGES = [
    Passage("lisbon", "Lisbon", "Lisbon is the capital of Portugal, and lies by the sea."),
    Passage("porto", "Porto", "Porto is the second city of Portugal; ships leave its port."),
    Passage("evora", "Évora", "A walled city in the south: Portugal's, with a Roman temple."),
    Passage("rome", "Rome", "Rome is the capital of Italy. The Roman temples are many, many."),
    Passage("z", "", "Twin passages are equal."),
    Passage("😀 a/../b", "", "Twin passages are equal."),
    Passage("a", "", "Twin passages are equal."),
    Passage("tokyo", "東京", "東京は日本の首都 😀 of Japan"),
]
QUERIES = [
    "capital of Portugal",
    "Roman temple",
    "city ships PORTS",
    "the sea",
    "twin",
    "Japan 東京",
]


def corpus_of(tmp_path, passages=PASSAGES):
    path = tmp_path / "corpus.jsonl"
    write_jsonl(path, map(asdict, passages))
    return Corpus.open(path, tmp_path / "cache")


@pytest.fixture
def corpus(tmp_path):
    return corpus_of(tmp_path)


@pytest.fixture
def settings(tmp_path, corpus):
    given = BM25Settings(tmp_path / "index")
    given.build(corpus)
    return given


@pytest.fixture
def index(settings, corpus):
    return settings.open(corpus)


def ids(hits):
    return [hit.passage_id for hit in hits]


def reference(passages, query, k1, b):
    """BM25 by the formula of Robertson and Zaragoza, over Anserini's terms.

    Returns the scores by id, without those that are 0.
    """
    analyze = java_class("io.anserini.analysis.AnalyzerUtils").analyze
    terms = {p.id: Counter(analyze(f"{p.title}\n{p.text}").toArray()) for p in passages}
    lengths = {id: sum(counts.values()) for id, counts in terms.items()}
    mean = sum(lengths.values()) / len(lengths)
    scores: Counter[str] = Counter()
    for term in analyze(query).toArray():
        found = [id for id, counts in terms.items() if counts[term]]
        idf = math.log(1 + (len(terms) - len(found) + 0.5) / (len(found) + 0.5))
        for id in found:
            frequency = terms[id][term]
            norm = k1 * (1 - b + b * lengths[id] / mean)
            scores[id] += idf * frequency / (frequency + norm)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 0.0)])
def test_scores_are_those_of_the_formula(tmp_path, corpus, k1, b):
    settings = BM25Settings(tmp_path / "index", k1=k1, b=b)
    settings.build(corpus)
    found = settings.open(corpus).search(QUERIES, 20)
    assert all(found)
    for query, hits in zip(QUERIES, found, strict=True):
        expected = reference(PASSAGES, query, k1, b)
        # Anserini separates ties by 1e-6, and rounds scores to four decimals.
        assert {h.passage_id: h.score for h in hits} == pytest.approx(expected, abs=1e-3)
        assert ids(hits) == sorted(
            ids(hits), key=lambda id: (-round(expected[id], 4), id.encode("utf-8"))
        )


def test_batches_k_threads_and_repeated_queries(tmp_path, corpus, settings, index):
    one_by_one = [index.search([query], 20)[0] for query in QUERIES]
    assert index.search(QUERIES * 3, 20) == one_by_one * 3
    assert replace(settings, threads=5).open(corpus).search(QUERIES, 20) == one_by_one
    assert index.search(QUERIES, 2) == [hits[:2] for hits in one_by_one]
    assert index.search([], 3) == []
    with pytest.raises(ValueError, match="k must be positive, got 0"):
        index.search(QUERIES, 0)


def test_ties_are_in_the_order_of_the_ids(index):
    assert ids(index.search(["twin"], 9)[0]) == ["a", "z", "😀 a/../b"]
    assert ids(index.search(["twin"], 1)[0]) == ["a"]


def test_queries_that_find_nothing(index):
    assert index.search(["", " \n", "the of and", "xqzzy", "!? ()", "\ud800"], 3) == [[]] * 6


def test_query_syntax_and_odd_characters_are_plain_text(index):
    odd = 'title:"lisbon" AND (sea^9 OR -x) [a TO b] \0 \ud83d 😀 */ \\'
    assert ids(index.search([odd], 1)[0]) == ["lisbon"]


def test_queries_of_many_terms(index):
    long = " ".join(f"word{i}" for i in range(5_000))
    assert ids(index.search([f"{long} lisbon"], 3)[0]) == ["lisbon"]


def test_queries_are_cut_to_so_many_words(corpus, settings, index):
    short = replace(settings, max_query_tokens=2).open(corpus)
    queries = ["  Roman\ttemple  capital Lisbon", "Roman", ""]
    assert short.search(queries, 9) == index.search(["Roman temple", "Roman", ""], 9)
    assert short.fingerprint != index.fingerprint


def test_a_folder_whose_name_is_no_text_is_named():
    with pytest.raises(ValueError, match="index_dir must be text that UTF-8 can express, got"):
        BM25Settings(os.fsdecode(b"index/\xff"))


def test_a_path_that_java_refuses_gets_advice(tmp_path):
    start_java()
    from jnius import JavaException

    refused = JavaException("java.nio.file.InvalidPathException: unmappable characters")
    with (
        pytest.raises(FolderError, match=r"set LC_ALL=C\.UTF-8, or choose a folder whose name is"),
        lucene._java_errors(tmp_path),
    ):
        raise refused


def test_python_threads_share_it_while_it_changes(index):
    expected = index.search(QUERIES[:4], 9)
    found: list[list[list[Hit]]] = []
    errors: list[BaseException] = []

    def ask():
        try:
            found.extend(index.search(QUERIES[:4], 9) for _ in range(10))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        index.compact()  # a new generation with the same passages
    for thread in threads:
        thread.join()
    assert not errors
    assert found == [expected] * 80


def test_adding_and_removing_take_effect_at_once(tmp_path, corpus, settings, index):
    added = [Passage("braga", "Braga", "Braga is a city of Portugal"), Passage("b2", "", "Minho")]
    before = index.fingerprint
    index.add(iter(added))
    index.remove(["lisbon", "a"])
    assert len(index) == 8
    assert "braga" in ids(index.search(["Portugal city"], 9)[0])
    assert ids(index.search(["lisbon"], 9)[0]) == []
    assert ids(index.search(["twin"], 9)[0]) == ["z", "😀 a/../b"]
    now = [p for p in PASSAGES if p.id not in ("lisbon", "a")] + added
    reopened = settings.open(corpus_of(tmp_path, now[::-1]))
    assert reopened.search(QUERIES, 9) == index.search(QUERIES, 9)
    assert reopened.fingerprint == index.fingerprint != before
    with pytest.raises(FolderError, match=r"made with corpus \w{12}…, not \w{12}…"):
        settings.open(corpus)


def test_compaction_ends_with_what_a_new_build_has(tmp_path, index):
    index.update(add=[Passage("rome", "Roma", "Another text of the same id")], remove=["rome"])
    index.remove(["porto", "z"])
    index.compact()
    now = [p for p in PASSAGES if p.id not in ("rome", "porto", "z")]
    now.append(Passage("rome", "Roma", "Another text of the same id"))
    corpus = corpus_of(tmp_path, now)
    fresh = BM25Settings(tmp_path / "fresh")
    fresh.build(corpus)
    assert index.search(QUERIES, 9) == fresh.open(corpus).search(QUERIES, 9)
    assert index.fingerprint == fresh.open(corpus).fingerprint
    (segments,) = (tmp_path / "index").glob("segments-*")
    assert len(list(segments.glob("*.si"))) == 1


def test_only_adding_needs_no_compaction(tmp_path, index):
    extra = Passage("braga", "Braga", "Braga is a city of Portugal")
    index.add([extra])
    corpus = corpus_of(tmp_path, [*PASSAGES, extra])
    fresh = BM25Settings(tmp_path / "fresh")
    fresh.build(corpus)
    assert index.search(QUERIES, 9) == fresh.open(corpus).search(QUERIES, 9)
    assert index.fingerprint == fresh.open(corpus).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"add": [PASSAGES[0]]}, "cannot add the passage 'lisbon': its id is in the index already"),
        ({"add": [Passage("n", "", "x")] * 2}, "cannot add the passage 'n': .* given twice"),
        ({"remove": ["nowhere"]}, "cannot remove the passage 'nowhere': it is not in the index"),
        ({"remove": ["a", "a"]}, "cannot remove the passage 'a': .* named twice"),
        ({"add": [Passage("n" * 40_000, "", "x")]}, "ids of at most 32766 bytes, got 'nnn"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(
    tmp_path, corpus, settings, index, change, message
):
    before = index.search(QUERIES, 9)
    with pytest.raises(DataError, match=message):
        index.update(**change)
    assert index.search(QUERIES, 9) == before == settings.open(corpus).search(QUERIES, 9)
    index.update(add=[Passage("n", "", "new")], remove=["a"])  # and later changes work
    assert ids(index.search(["new"], 9)[0]) == ["n"]


def test_what_another_changed_must_be_opened_again(corpus, settings, index):
    other = settings.open(corpus)
    other.remove(["a"])
    with pytest.raises(FolderError, match="another process changed the BM25 index since"):
        index.remove(["z"])
    assert ids(index.search(["twin"], 9)[0]) == ["a", "z", "😀 a/../b"]  # as when it was opened


def test_one_writer_at_a_time(tmp_path, corpus, settings, index):
    with only_writer(tmp_path / "index", "BM25 index"):
        for write in (lambda: index.remove(["a"]), index.compact, lambda: settings.build(corpus)):
            with pytest.raises(FolderError, match=r"another process \(id \d+\) is writing"):
                write()


def test_other_settings_or_passages_are_an_error(tmp_path, corpus, settings):
    for other, message in [
        (replace(settings, k1=1.2), "made with k1 0.9, not 1.2; set"),
        (replace(settings, b=0.75, k1=1.2), "made with k1 0.9, not 1.2 and b 0.4, not 0.75"),
    ]:
        with pytest.raises(FolderError, match=message):
            other.open(corpus)
        with pytest.raises(FolderError, match=message):
            other.build(corpus)
    fewer = corpus_of(tmp_path, PASSAGES[:-1])
    with pytest.raises(FolderError, match="made with corpus"):
        settings.open(fewer)


def test_another_release_of_anserini_is_an_error(corpus, settings, monkeypatch):
    monkeypatch.setattr(lucene, "software", lambda: "anserini-9.9")
    with pytest.raises(FolderError, match=r"software anserini-[\d.]+, not anserini-9\.9"):
        settings.open(corpus)


def test_building_again_does_nothing(corpus, settings, monkeypatch):
    monkeypatch.setattr(lucene, "append", None)
    assert settings.build(corpus)["bytes"] > 1000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k1": -1}, r"k1 must be 0 or more, got -1; set k1"),
        ({"k1": math.inf}, "k1 must be 0 or more, got inf"),
        ({"b": 1.1}, "b must lie between 0 and 1, got 1.1"),
        ({"max_query_tokens": 0}, "max_query_tokens must be positive or null, got 0"),
        ({"threads": 0}, "threads must be positive, got 0"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        BM25Settings("index", **setting)


def test_nothing_is_there_before_and_after_a_build_that_fails(tmp_path, corpus, monkeypatch):
    settings = BM25Settings(tmp_path / "index")
    with pytest.raises(FolderError, match=r"found no manifest\.json: nothing was built here"):
        settings.open(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(lucene, "merge", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            settings.build(corpus)
    assert {p.name for p in tmp_path.iterdir()} == {"corpus.jsonl", "cache", ".index.lock"}
    settings.build(corpus)
    assert len(settings.open(corpus)) == 8


def test_a_folder_of_something_else_is_left_alone(tmp_path, corpus):
    (tmp_path / "index").mkdir()
    BM25Settings(tmp_path / "index").build(corpus)  # an empty folder may be there
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FolderError, match=r"other: expected a whole BM25 index or nothing"):
        BM25Settings(tmp_path / "other").build(corpus)
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_a_passage_that_lucene_refuses_is_noticed(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(lucene, "_as_json", lambda passage: '{"id": "x", "contents": " "}')
    with pytest.raises(FolderError, match="expected Lucene to take 8 passages, it took 0"):
        BM25Settings(tmp_path / "index").build(corpus)


def test_flushing_while_building(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(lucene, "_FLUSH", 4)
    monkeypatch.setattr(lucene, "_BATCH", 2)
    settings = BM25Settings(tmp_path / "index")
    settings.build(corpus)
    assert ids(settings.open(corpus).search(["twin"], 9)[0]) == ["a", "z", "😀 a/../b"]


def test_a_reader_that_opens_while_a_writer_publishes(corpus, settings, index, monkeypatch):
    calls: list[int] = []

    def slow(*arguments, **options):
        manifest = read_manifest(*arguments, **options)
        if not calls:
            calls.append(1)
            index.compact()  # removes the segments that this manifest names
        return manifest

    monkeypatch.setattr(index_folder, "read_manifest", slow)
    assert ids(settings.open(corpus).search(["lisbon"], 9)[0]) == ["lisbon"]


@pytest.mark.slow  # it imports Pyserini's encoders
@pytest.mark.filterwarnings("ignore")
def test_hits_are_those_of_pyserinis_own_searcher(tmp_path, settings, index, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # the import creates a client
    searchers = pytest.importorskip("pyserini.search.lucene")
    searcher = searchers.LuceneSearcher(str(tmp_path / "index" / "segments-0"))
    searcher.set_bm25(0.9, 0.4)
    for query, hits in zip(QUERIES, index.search(QUERIES, 9), strict=True):
        theirs = searcher.search(query, k=9)
        assert ids(hits) == [hit.docid for hit in theirs]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in theirs])
