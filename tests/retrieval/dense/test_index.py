"""Dense indexes, compared with numpy: hits, ties, changes and errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from plumbing.storage.folders import only_writer
from plumbing.storage.jsonl import DataError
from plumbing.storage.manifest import FolderError
from retrieval.dense import faiss_index as vector_index
from retrieval.dense import folder as dense_folder
from retrieval.dense.embeddings import Embeddings
from retrieval.dense.faiss_index import FaissIndex, FlatIndex
from retrieval.dense.faiss_settings import HNSW, IVFPQ
from retrieval.dense.index import DenseSettings
from retrieval.dense.search import VectorSearch
from retrieval.dense.shard import Rows, repacked, store_shard
from retrieval.encoders.settings import encoder_settings
from retrieval.passage import Passage
from tests.helpers.tiny_encoders import WordEncoderSettings, make_corpus, make_passages

pytestmark = pytest.mark.filterwarnings(
    # FAISS's bindings were made by an older SWIG.
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"
)

ROOT = Path(__file__).parents[3]
PASSAGES = make_passages(300)
QUERIES = ["rome and the river", "a castle of lisbon", "Market street?", "port porto"]
KINDS = ["flat", "ivfpq", "hnsw"]


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path, PASSAGES)


@pytest.fixture
def settings(tmp_path):
    return DenseSettings(
        tmp_path / "index",
        encoder=WordEncoderSettings(),
        ivfpq=IVFPQ(lists=8, probes=8, subvectors=4, bits=4),
        hnsw=HNSW(neighbours=8, build_depth=40),
        shard_rows=64,
        threads=1,
    )


@pytest.fixture(params=KINDS)
def of_each_kind(request, settings):
    return replace(settings, kind=request.param)


@pytest.fixture
def index(settings, corpus):
    settings.build(corpus)
    return settings.open(corpus)


def reference(passages, query, k, encoder=None):
    """An exhaustive search in float64, with ties in the order of the passages."""
    encoder = encoder or WordEncoderSettings().load()
    scores = encoder.encode_passages(passages).astype(float) @ encoder.encode_questions([query])[0]
    order = np.argsort(-scores.astype(np.float32), kind="stable")[:k]
    return [(passages[row].id, np.float32(scores[row])) for row in order]


def pairs(hits):
    return [(hit.passage_id, np.float32(hit.score)) for hit in hits]


@pytest.mark.parametrize("k", [1, 7, 299, 1000])
def test_flat_search_is_exact(index, k):
    found = index.search(QUERIES, k)
    for hits, query in zip(found, QUERIES, strict=True):
        expected = reference(PASSAGES, query, k)
        assert [id for id, _ in pairs(hits)] == [id for id, _ in expected]
        np.testing.assert_allclose([h.score for h in hits], [s for _, s in expected], rtol=2e-7)


def test_a_query_alone_and_among_others_has_the_same_hits(index):
    many = index.search([*QUERIES, *(p.text for p in PASSAGES)], 9)
    assert index.search(QUERIES[:1], 9) == many[:1]
    assert index.search(QUERIES, 9) == many[: len(QUERIES)]
    assert index.search(QUERIES[::-1], 9) == many[: len(QUERIES)][::-1]


def search_of(folder, vectors, removed=(), size=7):
    """An exhaustive search of the given vectors."""
    rows = Rows.of(make_passages(len(vectors)), vectors, "float32")
    parts = enumerate(repacked([rows], size))
    names = [store_shard(folder, number, part.to_bytes()) for number, part in parts]
    embeddings = Embeddings(folder, names, size, vectors.shape[1])
    return VectorSearch(embeddings, FlatIndex(embeddings), np.array(removed, np.int64))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_stand_in_the_order_of_the_rows(tmp_path_factory, data):
    """The vectors have few different values, so most scores are ties. Some rows are removed."""
    count = data.draw(st.integers(1, 60))
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    vectors = random.integers(0, 2, (count, 3)).astype(np.float32)
    queries = random.integers(-1, 2, (data.draw(st.integers(1, 30)), 3)).astype(np.float32)
    removed = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    k = data.draw(st.integers(1, 70))
    found = search_of(tmp_path_factory.mktemp("ties"), vectors, removed).search(queries, k)
    live = [row for row in range(count) if row not in removed]
    for (rows, scores), query in zip(found, queries, strict=True):
        exact = vectors[live] @ query
        order = np.argsort(-exact, kind="stable")[:k]
        assert rows.tolist() == [live[place] for place in order]
        assert scores.tolist() == exact[order].tolist()


def test_more_equal_passages_than_candidates(tmp_path):
    vectors = np.ones((3000, 4), np.float32)
    vectors[1500:] *= 0.5
    ((rows, _),) = search_of(tmp_path, vectors, size=500).search(np.ones((1, 4), np.float32), 20)
    assert rows.tolist() == list(range(20))


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_has_no_hits(of_each_kind, corpus, query):
    of_each_kind.build(corpus)
    index = of_each_kind.open(corpus)
    assert index.search([query], 5) == [[]]
    hits = index.search([QUERIES[0], query, QUERIES[1]], 5)
    assert [len(found) for found in hits] == [5, 0, 5]
    assert index.search([], 5) == []


def test_k_must_be_positive(index):
    with pytest.raises(ValueError, match="k must be positive, got 0"):
        index.search(QUERIES, 0)


def test_a_deep_search_changes_no_later_one():
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    graph = faiss.IndexHNSWFlat(16, 4, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 8
    graph.add(vectors)
    index = FaissIndex(graph, depth=1)
    before = index.candidates(vectors[:20], 5)[1]
    deep = index.candidates(vectors[:20], 400)[1]
    assert (deep[:, :5] != before).any()  # a deeper search finds other rows
    assert (index.candidates(vectors[:20], 5)[1] == before).all()


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_approximate_indexes_find_nearly_all_with_exact_scores(settings, corpus, kind):
    settings = replace(settings, kind=kind)
    settings.build(corpus)
    queries = [passage.text for passage in PASSAGES[:50]]
    found = settings.open(corpus).search(queries, 10)
    shared = 0
    for hits, query in zip(found, queries, strict=True):
        exact = dict(reference(PASSAGES, query, len(PASSAGES)))
        best = {id for id, _ in reference(PASSAGES, query, 10)}
        shared += len(best & {hit.passage_id for hit in hits})
        expected = [exact[hit.passage_id] for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=2e-7)
    assert shared / 500 > 0.97


def test_searches_may_look_further_than_the_index_was_told(settings, corpus):
    settings = replace(settings, kind="ivfpq", ivfpq=replace(settings.ivfpq, probes=1))
    settings.build(corpus)
    (few,) = settings.open(corpus).search(QUERIES[:1], 300)
    wider = replace(settings, ivfpq=replace(settings.ivfpq, probes=8))
    (all_of_them,) = wider.open(corpus).search(QUERIES[:1], 300)
    assert few == all_of_them  # if one list has too few rows, other lists are searched
    found = [one.open(corpus).search(QUERIES, 5) for one in (settings, wider)]
    assert found[0] != found[1]
    assert settings.open(corpus).fingerprint != wider.open(corpus).fingerprint


@pytest.mark.parametrize("probes", [1, 3, 8])
@pytest.mark.parametrize("left", [1, 4, 20])
def test_few_that_are_left_are_found_in_whichever_list(settings, corpus, probes, left):
    settings = replace(settings, kind="ivfpq", ivfpq=replace(settings.ivfpq, probes=probes))
    settings.build(corpus)
    index = settings.open(corpus)
    index.remove([passage.id for passage in PASSAGES[left:]])
    for query, hits in zip(QUERIES, index.search(QUERIES, 20), strict=True):
        assert [hit.passage_id for hit in hits] == [
            id for id, _ in reference(PASSAGES[:left], query, 20)
        ]


def test_a_search_that_finds_enough_looks_no_further(settings, corpus, monkeypatch):
    settings = replace(settings, kind="ivfpq", ivfpq=replace(settings.ivfpq, probes=2))
    settings.build(corpus)
    index, widths = settings.open(corpus), []
    search = FaissIndex.candidates

    def observed(self, queries_QD, count, width=1):
        widths.append(width)
        return search(self, queries_QD, count, width)

    monkeypatch.setattr(FaissIndex, "candidates", observed)
    index.search(QUERIES, 3)
    assert widths == [1]
    index.search(QUERIES, 300)
    assert widths == [1, 1, 4]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_building_twice_gives_the_same_bytes(of_each_kind, corpus, tmp_path):
    of_each_kind.build(corpus)
    other = replace(of_each_kind, index_dir=tmp_path / "other", threads=2)
    numbers = other.build(corpus)
    assert files(tmp_path / "index") == files(tmp_path / "other")
    assert numbers["bytes"] == sum(map(len, files(tmp_path / "other").values()))
    assert not list(tmp_path.glob(".*.encoding"))


def test_building_what_is_there_does_nothing(settings, corpus, caplog, tmp_path):
    settings.build(corpus)
    before = (tmp_path / "index" / "manifest.json").stat()
    with caplog.at_level("INFO"):
        settings.build(corpus)
    assert "the dense index is there already" in caplog.text
    after = (tmp_path / "index" / "manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_builds_that_end_after_each_shard_come_to_the_same_index(
    of_each_kind, corpus, tmp_path, monkeypatch
):
    of_each_kind.build(corpus)
    again = replace(of_each_kind, index_dir=tmp_path / "again")
    stored: list[str] = []

    def store_one(folder, number, data):
        if stored:
            raise OSError("no space left")
        stored.append(store_shard(folder, number, data))

    monkeypatch.setattr("retrieval.dense.encoding.store_shard", store_one)
    for _ in range(4):
        with pytest.raises(OSError, match="no space left"):
            again.build(corpus)
        with pytest.raises(FolderError, match="nothing was built here, or its building did"):
            again.open(corpus)
        stored.clear()
    again.build(corpus)  # the last of five builds
    assert files(tmp_path / "index") == files(tmp_path / "again")


def changed(passages, gone, new):
    return [passage for passage in passages if passage.id not in gone] + new


NEW = [
    Passage("new", "castle", "a castle of lisbon"),
    *make_passages(3, seed=5)[:1],  # p0 gets a new text
    Passage("ünï/../x", "", "market market street"),
]
GONE = ["p0", "p7", "p63", "p64", "p299"]


def test_changes_take_effect_here_and_for_who_opens_it_next(of_each_kind, corpus, tmp_path):
    of_each_kind.build(corpus)
    index = of_each_kind.open(corpus)
    before = index.fingerprint
    index.update(add=NEW, remove=GONE)
    after = changed(PASSAGES, GONE, NEW)
    assert len(index) == len(after) == 298
    assert index.fingerprint != before
    found = index.search(QUERIES, 20)
    for hits, query in zip(found, QUERIES, strict=True):
        expected = reference(after, query, 20)
        if of_each_kind.kind == "flat":
            assert [id for id, _ in pairs(hits)] == [id for id, _ in expected]
        ids = {hit.passage_id for hit in hits}
        assert len(ids & {id for id, _ in expected}) >= 18
        assert not ids & set(GONE[1:])
    assert found[1][0].passage_id == "new"
    opened = of_each_kind.open(make_corpus(tmp_path, after, "after"))
    assert opened.search(QUERIES, 20) == found
    with pytest.raises(FolderError, match=r"one made with corpus [0-9a-f]{12}…, not"):
        of_each_kind.open(corpus)
    index.compact()
    assert len(index) == 298
    assert of_each_kind.open(make_corpus(tmp_path, after, "after")).search(QUERIES, 300) == (
        index.search(QUERIES, 300)
    )
    if of_each_kind.kind == "flat":
        assert index.search(QUERIES, 20) == found


def test_adding_and_removing_the_same_gives_the_old_corpus_back(index, corpus, settings):
    index.add(NEW[:1])
    index.remove(["new"])
    assert settings.open(corpus).search(QUERIES, 5) == index.search(QUERIES, 5)
    index.update()
    assert len(index) == 300


def test_full_shards_stay_as_they_are_and_old_files_go(index, tmp_path):
    before = {name for name in files(tmp_path / "index") if name.startswith("shard")}
    index.add(NEW[:1])
    after = {name for name in files(tmp_path / "index") if name.startswith("shard")}
    assert len(before & after) == 4
    assert len(after) == 5
    index.remove(["p3"])
    index.remove(["p4"])
    assert len([name for name in files(tmp_path / "index") if name.startswith("removed")]) == 1


def test_everything_may_go_and_come_again(of_each_kind, corpus, tmp_path):
    of_each_kind.build(corpus)
    index = of_each_kind.open(corpus)
    index.remove([passage.id for passage in PASSAGES])
    assert len(index) == 0
    assert index.search(QUERIES, 3) == [[]] * 4
    index.compact()
    assert index.search(QUERIES, 3) == [[]] * 4
    assert of_each_kind.open(make_corpus(tmp_path, [], "empty")).search(QUERIES, 3) == [[]] * 4
    index.add(PASSAGES[:9])
    assert len(index.search(QUERIES, 20)[0]) == 9


@pytest.mark.parametrize(
    ("add", "remove", "message"),
    [
        ([PASSAGES[1]], [], "cannot add the passage 'p1': its id is in the index already, or is"),
        ([NEW[0], NEW[0]], [], "cannot add the passage 'new': .* or is given twice; remove the"),
        ([], ["nobody"], "cannot remove the passage 'nobody': it is not in the index, or is named"),
        ([], ["p1", "p1"], "cannot remove the passage 'p1': .* or is named twice"),
    ],
)
def test_impossible_changes_change_nothing(index, corpus, settings, add, remove, message):
    with pytest.raises(DataError, match=message):
        index.update(add=add, remove=remove)
    assert len(settings.open(corpus)) == len(index) == 300


def test_two_writers(index, corpus, settings, tmp_path):
    other = settings.open(corpus)
    other.add(NEW[:1])
    with pytest.raises(FolderError, match="another process changed the dense index since"):
        index.remove(["p3"])
    with (
        only_writer(tmp_path / "index", "dense index"),
        pytest.raises(FolderError, match=r"another process .* is writing this dense index"),
    ):
        other.remove(["p3"])


def test_a_reader_keeps_what_it_opened(index, corpus, settings):
    reader = settings.open(corpus)
    before = reader.search(QUERIES, 300)
    index.update(add=NEW, remove=GONE)
    index.compact()
    assert reader.search(QUERIES, 300) == before


OTHERS = [
    ({"kind": "hnsw"}, "index flat, not hnsw and index.neighbours None, not 8"),
    ({"storage": "float16"}, "storage float32, not float16"),
    (
        {"encoder": WordEncoderSettings(name="others")},
        "question_encoder .*words.* not .*others",
    ),
]


@pytest.mark.parametrize(("change", "message"), OTHERS)
def test_other_settings_are_refused(settings, corpus, change, message):
    settings.build(corpus)
    for use in (replace(settings, **change).open, replace(settings, **change).build):
        with pytest.raises(FolderError, match=f"found one made with .*{message}.*; set what"):
            use(corpus)


def test_another_corpus_is_refused(settings, corpus, tmp_path):
    settings.build(corpus)
    other = make_corpus(tmp_path, PASSAGES[:-1], "other")
    for use in (settings.open, settings.build):
        with pytest.raises(FolderError, match=r"one made with corpus [0-9a-f]{12}…, not"):
            use(other)


def test_the_order_of_the_corpus_does_not_matter(settings, corpus, tmp_path):
    settings.build(corpus)
    reversed_corpus = make_corpus(tmp_path, PASSAGES[::-1], "reversed")
    assert settings.open(reversed_corpus).search(QUERIES, 5) == (
        settings.open(corpus).search(QUERIES, 5)
    )


def test_half_an_index_is_in_the_way(settings, corpus, tmp_path):
    settings.build(corpus)
    (tmp_path / "index" / "manifest.json").unlink()
    with pytest.raises(FolderError, match="expected a whole dense index or nothing, but"):
        settings.build(corpus)


def test_an_encoder_of_another_dimension(settings, corpus, monkeypatch):
    settings.build(corpus)
    index = settings.open(corpus)
    wider = WordEncoderSettings(dimension=17).load()
    monkeypatch.setattr(index, "_encoder", wider)
    with pytest.raises(ValueError, match=r"vectors of 16 dimensions, .* got 17 from the"):
        index.search(QUERIES, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "lsh"}, "kind must be one of flat, ivfpq, hnsw, got 'lsh'; set kind"),
        ({"threads": 0}, "threads must be positive, got 0; set threads"),
        ({"engine": "spark"}, "engine must be one of plain, lightning, ray, got 'spark'"),
        ({"workers": 2}, "the plain engine is one process, got workers=2; set engine=lightning"),
    ],
)
def test_impossible_settings(change, message):
    with pytest.raises(ValueError, match=message):
        DenseSettings("index", **change)


@pytest.mark.parametrize("name", ["lists", "probes", "subvectors", "bits", "train_rows", "refine"])
def test_impossible_numbers_of_ivfpq(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0; set {name}"):
        IVFPQ(**{name: 0})


@pytest.mark.parametrize("name", ["neighbours", "build_depth", "search_depth"])
def test_impossible_numbers_of_hnsw(name):
    wrong: Any = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0; set {name}"):
        HNSW(**wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lists": 512},
            "512 lists and codes of 4 bits are learnt from at least 512 passages",
        ),
        ({"bits": 9}, "learnt from at least 512 passages, got 300; set kind=flat, or"),
        ({"train_rows": 7}, "at least 16 passages, got 7; set"),
        ({"subvectors": 5}, "16 dimensions cannot be cut into 5 equal pieces; set ivfpq.sub"),
    ],
)
def test_ivfpq_that_does_not_fit_the_corpus(settings, corpus, change, message, monkeypatch):
    wrong = replace(settings, kind="ivfpq", ivfpq=replace(settings.ivfpq, **change))
    asked = []
    monkeypatch.setattr(dense_folder, "encode_corpus", lambda *given: asked.append(given))
    with pytest.raises(ValueError, match=message):
        wrong.build(corpus)
    assert not asked  # the error comes before anything is encoded


@pytest.mark.parametrize("name", ["", ".", "..", "/", "some/.."])
def test_an_index_needs_a_folder_of_its_own(name):
    with pytest.raises(ValueError, match=r"index_dir must name a folder of its own, got .*; set"):
        DenseSettings(name)


def test_a_file_in_place_of_the_folder(settings, corpus, tmp_path):
    (tmp_path / "index").write_text("something")
    for use in (settings.build, settings.open):
        with pytest.raises(FolderError, match="expected a folder or nothing, got a file"):
            use(corpus)
    with pytest.raises(ValueError, match=r"index_dir must be a folder, got null; set index_dir"):
        replace(settings, index_dir=None).build(corpus)


def test_lists_are_about_four_roots(settings, corpus):
    settings = replace(settings, kind="ivfpq", ivfpq=IVFPQ(subvectors=4, bits=4))
    settings.build(corpus)
    (path,) = Path(settings.index_dir).glob("*.faiss")
    index: Any = faiss.read_index(str(path))
    assert index.nlist == 64


def test_threads_are_set_while_faiss_works_only(index, monkeypatch):
    faiss.omp_set_num_threads(2)
    seen = []
    search = faiss.knn

    def observed(*given):
        seen.append(faiss.omp_get_max_threads())
        return search(*given)

    monkeypatch.setattr(faiss, "knn", observed)
    index.search(QUERIES, 3)
    assert set(seen) == {1}
    assert faiss.omp_get_max_threads() == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_is_used_where_faiss_has_one(settings, corpus, monkeypatch, kind):
    """With a stand-in for faiss-gpu, which moves nothing. A graph is never sent to the GPU."""
    moved = []

    def to_gpu(resources, device, index):
        moved.append((resources, device))
        return index

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    settings = replace(settings, kind=kind)
    settings.build(corpus)
    on_gpu = settings.open(corpus)
    assert moved == ([] if kind == "hnsw" else [("resources", 0)])
    on_cpu = replace(settings, search_device="cpu").open(corpus)
    assert len(moved) == (kind != "hnsw")
    assert on_gpu.search(QUERIES, 9) == on_cpu.search(QUERIES, 9)


def test_a_gpu_that_is_not_there(settings, corpus, monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    settings.build(corpus)
    with pytest.raises(ValueError, match=r"FAISS finds no GPU; install .* set search"):
        replace(settings, search_device="cuda").open(corpus)
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda, got 'tpu'; set"):
        replace(settings, search_device="tpu").open(corpus)


def test_a_limit_of_candidates_ends_the_search(tmp_path):
    search = search_of(tmp_path, np.ones((100, 4), np.float32))
    search._index.most = 30
    ((rows, _),) = search.search(np.ones((1, 4), np.float32), 50)
    assert len(rows) == 30
    assert vector_index._GPU_MOST == 2048


@pytest.mark.parametrize("retriever", ["dense", "dpr"])
def test_the_configuration_makes_settings(retriever, tmp_path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "build_index",
            [f"retriever={retriever}", "retriever.index_dir=here", "retriever.ivfpq.probes=3"],
        )
        settings = instantiate(config.retriever)
        assert (settings.index_dir, settings.ivfpq) == ("here", IVFPQ(probes=3))
        assert settings.encoder.kind == {"dense": "sentence", "dpr": "dpr"}[retriever]
        if retriever == "dense":  # the YAML has the library's defaults
            plain = DenseSettings("here", ivfpq=IVFPQ(probes=3), encoder=encoder_settings())
            assert settings == plain
        wanted = [f"retriever={retriever}", "retriever.index_dir=here", "++engine=lightning"]
        assert instantiate(compose("build_index", wanted).retriever).engine == "lightning"
        wrong = compose("build_index", [f"retriever={retriever}", "retriever.kind=lsh"])
    wrong.retriever.index_dir = "here"
    with pytest.raises(InstantiationException, match="kind must be one of flat, ivfpq, hnsw, got"):
        instantiate(wrong.retriever)
