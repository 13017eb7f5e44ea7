"""A mistyped setting is one error that names it, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli import one_line
from plumbing.settings import (
    MAX_SEED,
    check_limit,
    check_seed,
    check_types,
    read_section,
    typed,
)
from qa.passages.pipeline import open_pipeline
from retrieval.commands.build_index import build_index_command
from retrieval.corpus.corpus import Corpus

CONF = Path(__file__).parents[2] / "conf"

# Settings of build_index: the retriever, what is set, what the message says.
WRONG = [
    ("bm25", "k1=abc", "k1 must be a number, got 'abc'; set retriever.k1"),
    ("bm25", "b=[1]", "b must be a number, got [1]; set retriever.b"),
    ("bm25", "threads=1.5", "threads must be a whole number, got 1.5; set retriever.threads"),
    ("bm25", "threads=true", "threads must be a whole number, got True; set retriever.threads"),
    (
        "bm25",
        "max_query_tokens=few",
        "max_query_tokens must be a whole number or null, got 'few'; set retriever.max",
    ),
    ("bm25", "index_dir=5", "index_dir must be a text or a path or null, got 5; set retriever"),
    ("bm25", "index_dir=.", "index_dir must name a folder of its own, got '.'; set retriever"),
    ("bm25", "index_dir=''", "index_dir must name a folder of its own, got ''; set retriever"),
    ("bm25", "index_dir=null", "index_dir must be a folder, got null; set retriever.index_dir"),
    ("dense", "threads=1.5", "threads must be a whole number, got 1.5; set retriever.threads"),
    ("dense", "workers=two", "workers must be a whole number, got 'two'; set retriever.workers"),
    ("dense", "shard_rows=0", "shard_rows must be positive or null, got 0; set retriever.shard"),
    ("dense", "storage=16", "storage must be a text, got 16; set retriever.storage"),
    ("dense", "ivfpq.probes=1.5", "got 1.5; set retriever.ivfpq.probes"),
    ("dense", "hnsw.deterministic=1", "deterministic must be true or false, got 1; set retriever"),
    ("dense", "ivfpq=5", "ivfpq must be a section of settings, got 5; set retriever.ivfpq"),
    ("dense", "encoder=minilm", "encoder must be a section of settings, got 'minilm'; set"),
    ("dense", "encoder.batch_size=1e2", "got 100.0; set retriever.encoder.batch_size"),
    ("dense", "encoder.passage_model=null", "passage_model must be a text, got None; set"),
    ("dpr", "encoder.max_passage_tokens=all", "got 'all'; set retriever.encoder.max_passage"),
    ("hybrid", "fusion.depth=ten", "depth must be a whole number, got 'ten'; set retriever.fusion"),
    (
        "hybrid",
        "fusion.weights={bm25: much, dense: 1}",
        "weights must be a mapping, each value a number or null, got {'bm25': 'much', 'dense': 1}",
    ),
    ("hybrid", "retrievers.bm25.k1=abc", "k1 must be a number, got 'abc'"),
    ("hybrid", "index_dir=null", "the part 'bm25' needs a folder for its index, got none; set"),
]


def build_config(tmp_path: Path, retriever: str, *overrides: str) -> DictConfig:
    given = [
        f"retriever={retriever}",
        f"retriever.index_dir={tmp_path / 'index'}",
        "corpus.path=FILE",
        f"paths.output_dir={tmp_path / 'run'}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("build_index", [*given, *overrides])


@pytest.fixture
def no_corpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What asks for a corpus although a setting is wrong."""
    asked: list[Any] = []
    monkeypatch.setattr(Corpus, "open", lambda *given, **settings: asked.append(given))
    return asked


@pytest.mark.parametrize(("retriever", "change", "message"), WRONG)
def test_building_an_index(
    tmp_path: Path, no_corpus: list[Any], retriever: str, change: str, message: str
) -> None:
    config = build_config(tmp_path, retriever, f"retriever.{change}")
    with pytest.raises((ValueError, InstantiationException)) as error:
        build_index_command(config)
    assert message in one_line(error.value)
    assert not no_corpus or change == "index_dir=null"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pipeline.n=20.5", "n must be a whole number, got 20.5; set pipeline.n"),
        ("pipeline.temperature=hot", "temperature must be a number, got 'hot'; set pipeline.temp"),
        ("pipeline.batch_size=null", "batch_size must be a whole number, got None; set pipeline"),
        ("pipeline.weighting=1", "weighting must be a text, got 1; set pipeline.weighting"),
        ("pipeline.cache_dir=1", "cache_dir must be a text or a path or null, got 1; set pipeline"),
        ("reranker.tokens_at_once=1e3", "tokens_at_once must be a whole number, got 1000.0; set"),
        ("reranker.path=1", "path must be a text or a path, got 1; set reranker.path"),
        ("corpus.path=1", "path must be a text or a path, got 1; set corpus.path"),
    ],
)
def test_opening_a_pipeline(change: str, message: str) -> None:
    given = ["data=bios", "retriever=bm25", "retriever.index_dir=DIR", "corpus.path=FILE"]
    reranker = [] if change.startswith("corpus") else ["reranker=minilm", "reranker.path=DIR"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate_retrieval", [*given, *reranker, "paths.output_dir=out", change])
    with pytest.raises(InstantiationException) as error:
        open_pipeline(config)
    assert message in one_line(error.value)


@pytest.mark.parametrize("option", ["bge_gemma", "bge_m3"])
def test_a_published_reranker_has_a_revision(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def model_folder(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        raise ValueError("asked")

    monkeypatch.setattr("retrieval.rerank.rerankers.model_folder", model_folder)
    given = [f"reranker={option}", "reranker.revision=abc", "data=bios", "retriever=bm25"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate_retrieval", [*given, "paths.output_dir=out"])
        wrong = compose(
            "evaluate_retrieval", [*given, "paths.output_dir=out", "reranker.batch_size=x"]
        )
    with pytest.raises(InstantiationException, match="asked"):
        instantiate(config.reranker)
    assert asked == [(config.reranker.name, "abc")]
    with pytest.raises(InstantiationException, match="batch_size must be a whole number, got 'x'"):
        instantiate(wrong.reranker)


@dataclass(frozen=True)
class Settings:
    """One setting of every type that settings have."""

    count: int = 1
    share: float = 0.5
    maybe: int | None = None
    names: Sequence[str] = ()
    weights: Mapping[str, float] | None = None
    where: str | Path = "here"
    other: Any = None
    part: Path | None = None

    def __post_init__(self) -> None:
        check_types(self, "section")


@pytest.mark.parametrize(
    "given",
    [
        {"share": 1},
        {"maybe": 3, "names": ["a", "b"]},
        {"names": ("a",), "weights": {"a": 1, "b": 0.5}},
        {"where": Path("there"), "other": object()},
    ],
)
def test_what_fits(given: dict[str, Any]) -> None:
    Settings(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1.0}, r"count must be a whole number, got 1\.0; set section\.count"),
        ({"count": False}, "count must be a whole number, got False"),
        ({"share": "1"}, "share must be a number, got '1'"),
        ({"names": "/a/path"}, "names must be a list, each entry a text, got '/a/path'; set"),
        ({"names": ["a", 1]}, r"names must be a list, each entry a text, got \['a', 1\]"),
        ({"weights": [1]}, r"weights must be a mapping, each value a number or null, got \[1\]"),
        ({"part": "x"}, "part must be a path or null, got 'x'"),
    ],
)
def test_what_does_not(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**given)


def test_arguments_of_a_function() -> None:
    @typed
    def double(count: int, *, name: str = "x") -> int:
        """Twice."""
        return 2 * count

    assert (double(2), double(count=3, name="y"), double.__doc__) == (4, 6, "Twice.")
    wrong: Any = {"count": 1, "name": 2}
    with pytest.raises(ValueError, match=r"name must be a text, got 2; set name"):
        double(**wrong)
    with pytest.raises(TypeError, match="missing a required argument: 'count'"):
        double(**{"name": "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, "x", True, None, MAX_SEED + 1])
def test_impossible_seeds(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number in 0 … .*; set batching\."):
        check_seed(seed, "batching.seed")


@pytest.mark.parametrize("limit", [0, -1, 1.5, "abc", True])
def test_impossible_limits(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"^limit must be a positive whole number or null \(all\)"):
        check_limit(limit)
    with pytest.raises(ValueError, match=rf"got {limit!r}; set instances\.limit$"):
        check_limit(limit, "instances.limit")


def test_possible_limits() -> None:
    check_limit(None)
    check_limit(1)


def test_possible_seeds() -> None:
    check_seed(0)
    check_seed(MAX_SEED)


def test_a_section_of_a_configuration() -> None:
    @typed
    def made(count: int, name: str = "x") -> tuple[int, str]:
        return count, name

    config = OmegaConf.create({"n": 3, "some": {"count": "${n}"}, "wrong": {"count": "many"}})
    assert read_section(config, "some", made) == (3, "x")
    with pytest.raises(ValueError, match=r"count must be a whole number, .*; set wrong\.count$"):
        read_section(config, "wrong", made)
