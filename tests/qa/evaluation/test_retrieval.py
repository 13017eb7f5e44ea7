"""Evaluation of retrieval: the numbers, the files, and from the command line to them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.storage.jsonl import read_jsonl, write_jsonl
from qa.commands.evaluate_retrieval import evaluate_retrieval_command
from qa.data.dataset import Question
from qa.evaluation.retrieval import evaluate_retrieval
from qa.passages.pipeline import open_pipeline
from qa.statistics import difference, estimate
from qa.tables.retrieval import plot_accuracy, retrieval_table
from retrieval.fusion import Fusion
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline, PipelineSettings
from retrieval.rerank.reranker import Reranker
from tests.helpers.fakes import FakeReranker, WordRetriever

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"
CORPUS = {
    passage.id: passage
    for passage in (
        Passage("a", "Lisbon", "Tova Blick was born there"),
        Passage("b", "", "Tova Blick is from Lisbon"),
        Passage("c", "", "Tova no"),
        Passage("d", "", "no sea"),
    )
}
QUESTIONS = [
    Question("q1", "Where was Tova Blick born?", ("lisbon",), ("a", "b")),  # a b c; in a: title
    Question("q2", "zebra", ("stripes",), ("d",)),  # nothing is found
    Question("q3", "no sea, Tova?", ("no",), ("c",)),  # c d a b
    Question("q4", "sea", ("sea",)),  # d; no gold passage is known
    Question("q5", "sea?", ("yes",)),  # d; nothing can be judged
]


def make(reranker: Reranker | None = None, n: int = 50) -> Pipeline:
    return Pipeline(CORPUS, WordRetriever(CORPUS), reranker, PipelineSettings(n))


def rule(query: str, passage: Passage) -> float:
    return {"b": 4.0, "d": 3.0, "c": 2.0}.get(passage.id, 1.0)


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, float]:
    return evaluate_retrieval(make(), QUESTIONS, [2, 1, 4, 1], tmp_path)


@pytest.fixture
def reranked(tmp_path: Path) -> dict[str, float]:
    return evaluate_retrieval(make(FakeReranker(rule)), QUESTIONS, [1, 2, 4], tmp_path, "made")


def means(metrics: dict[str, float], prefix: str = "") -> dict[str, float]:
    names = [f"{name}@{k}" for name in ("accuracy", "recall") for k in (1, 2, 4)] + ["mrr"]
    return {name: metrics[f"{prefix}{name}"] for name in names}


def test_metrics_of_the_retriever(plain: dict[str, float], tmp_path: Path) -> None:
    assert means(plain) == pytest.approx(
        {
            **{"accuracy@1": 100 / 3, "accuracy@2": 200 / 3, "accuracy@4": 200 / 3},  # of q1 q2 q4
            **{"recall@1": 50, "recall@2": 200 / 3, "recall@4": 200 / 3},  # of q1 … q3
            "mrr": 2 / 3,
        }
    )
    assert (plain["n"], plain["n_judged"], plain["n_gold"]) == (5, 3, 3)
    assert plain["seconds"] > 0
    assert not any(key.startswith("reranked/") for key in plain)
    assert json.loads((tmp_path / "metrics.json").read_text()) == plain


def test_metrics_after_reranking(reranked: dict[str, float], plain: dict[str, float]) -> None:
    assert means(reranked) == means(plain)
    # Now b c a; nothing; b d c a; d.
    assert means(reranked, "reranked/") == pytest.approx(
        {
            **{"accuracy@1": 200 / 3, "accuracy@2": 200 / 3, "accuracy@4": 200 / 3},
            **{"recall@1": 50 / 3, "recall@2": 50 / 3, "recall@4": 200 / 3},
            "mrr": (1 + 0 + 1 / 3) / 3,
        }
    )
    assert reranked["reranked/seconds"] > 0


def test_intervals_and_gains(reranked: dict[str, float]) -> None:
    before, after = [50.0, 0.0, 100.0], [50.0, 0.0, 0.0]
    ends = (reranked["recall@1_low"], reranked["recall@1_high"])
    assert ends == pytest.approx(estimate(before, largest=100)[1:])
    keys = [f"reranked/recall@1_gain{end}" for end in ("", "_low", "_high")]
    assert [reranked[key] for key in keys] == pytest.approx(difference(after, before, largest=100))


def test_rankings_are_written(reranked: dict[str, float], tmp_path: Path) -> None:
    rows = [row for _, row in read_jsonl(tmp_path / "rankings.jsonl")]
    assert [row["id"] for row in rows] == ["q1", "q2", "q3", "q4", "q5"]
    assert rows[0] == {
        "id": "q1",
        "question": "Where was Tova Blick born?",
        "answers": ["lisbon"],
        "gold_ids": ["a", "b"],
        "passage_ids": ["a", "b", "c"],
        "scores": [4.0, 2.0, 1.0],
        "answer_rank": 2,
        "reranked/passage_ids": ["b", "c", "a"],
        "reranked/scores": [4.0, 2.0, 1.0],
        "reranked/answer_rank": 1,
    }


def test_table_and_plot_are_made(reranked: dict[str, float], tmp_path: Path) -> None:
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| Metric | Retrieved | Reranked | Gain |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *("| accuracy@1", "| accuracy@2", "| accuracy@4"),
        *("| recall@1", "| recall@2", "| recall@4", "| mrr"),
    ]
    points = r"-?\+?\d+\.\d"
    cell = rf"{points} \({points} … {points}\)"
    assert all(re.fullmatch(rf"\| \S+ (\| {cell} ){{3}}\|", line) for line in lines[2:8])
    assert lines[2].startswith(
        "| accuracy@1 | 33.3 (6.1 … 79.2) | 66.7 (20.8 … 93.9) | +33.3 (-45.6 …"
    )
    assert re.match(
        r"\| mrr \| 0\.667 \(0\.\d{3} … 0\.\d{3}\) \| 0\.444 \(.*\) \| -0\.222 ", lines[8]
    )
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_table_and_plot_without_a_reranker(plain: dict[str, float], tmp_path: Path) -> None:
    start = "| Metric | Retrieved |\n| --- | ---: |\n| accuracy@1 | 33.3"
    assert retrieval_table(plain).startswith(start)
    plot_accuracy(plain, tmp_path / "other.png")
    assert (tmp_path / "other.png").is_file()


def test_questions_about_one_passage_are_one_cluster(tmp_path: Path) -> None:
    asked = [
        Question(f"q{i}", "zebra", ("stripes",), (gold,) if gold else ())
        for i, gold in enumerate(["a", "a", "b", "b", "", ""])
    ]
    metrics = evaluate_retrieval(make(FakeReranker(rule)), asked, [1], tmp_path)
    two, four = (estimate([0] * 4, clusters, 100) for clusters in ([0, 0, 1, 1], [0, 1, 2, 3]))
    assert metrics["recall@1_high"] == metrics["reranked/recall@1_high"] == two.high != four.high
    assert metrics["accuracy@1_high"] == estimate([0] * 6, [0, 0, 1, 1, 2, 3], 100).high
    gain = difference([0] * 4, [0] * 4, [0, 0, 1, 1], 1)
    assert metrics["reranked/mrr_gain_high"] == gain.high


def test_where_accuracy_cannot_be_judged_it_is_left_out(tmp_path: Path) -> None:
    metrics = evaluate_retrieval(make(), QUESTIONS[4:], [1], tmp_path)
    assert set(metrics) == {"n", "n_judged", "n_gold", "seconds"}
    assert metrics["n_judged"] == metrics["n_gold"] == 0
    assert not (tmp_path / "accuracy.png").exists()


@pytest.mark.parametrize(
    ("ks", "message"),
    [
        ([], r"ks must be in 1 … 3, .* got \[\]; set ks="),
        ([0, 1], r"ks must be in 1 … 3, .* got \[0, 1\]"),
        ([1, 4], r"ks must be in 1 … 3, the number of passages retrieved, got \[1, 4\]; set .*\.n"),
    ],
)
def test_cut_offs_are_within_what_is_retrieved(ks: list[int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(make(n=3), QUESTIONS, ks, tmp_path)
    with pytest.raises(ValueError, match="there is no question to evaluate"):
        evaluate_retrieval(make(), [], [1], tmp_path)


def compose_retrieval(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("evaluate_retrieval", overrides=list(overrides))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Composes an evaluation of the small corpus, whose words are its BM25 index."""
    write_jsonl(tmp_path / "data" / "passages.jsonl.gz", map(asdict, CORPUS.values()))
    write_jsonl(tmp_path / "data" / "dev.jsonl", map(asdict, QUESTIONS))
    small = [
        *("data=local", f"data.dir={tmp_path / 'data'}", "retriever=bm25", "retriever.index_dir=x"),
        f"corpus.path={tmp_path / 'data' / 'passages.jsonl.gz'}",
        *(f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}"),
    ]

    def composed(*overrides: str) -> DictConfig:
        config = compose_retrieval(*small, *overrides)
        config.retriever = {"_target_": "tests.helpers.fakes.WordSettings", "index_dir": "x"}
        return config

    return composed


def test_command(command: Callable[..., DictConfig], tmp_path: Path) -> None:
    metrics = evaluate_retrieval_command(command())
    assert {f"accuracy@{k}" for k in (1, 2, 4, 5, 6, 20)} <= set(metrics)
    assert [metrics["accuracy@1"], metrics["mrr"]] == pytest.approx([100 / 3, 2 / 3])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert any((tmp_path / "cache" / "retrieval").iterdir())
    again = evaluate_retrieval_command(command("limit=3", "ks=[1,50]", "pipeline.n=50"))
    assert again["n"] == 3


def test_a_pipeline_needs_a_corpus_and_a_retriever(command: Callable[..., DictConfig]) -> None:
    pipeline = open_pipeline(command("pipeline.n=7", "reranker=none"))
    assert pipeline is not None
    assert pipeline.settings.n == 7
    assert pipeline.reranker is None
    config = command()
    config.corpus.path = None
    with pytest.raises(
        ValueError, match=r"needs the passages of its index; give corpus\.path=FILE"
    ):
        open_pipeline(config)
    config.retriever = None
    assert open_pipeline(config) is None
    with pytest.raises(ValueError, match="there is no retriever to evaluate; give retriever="):
        evaluate_retrieval_command(config)


@pytest.mark.parametrize("retriever", ["bm25", "dense", "hybrid"])
@pytest.mark.parametrize("root", ["evaluate", "evaluate_retrieval"])
def test_every_retriever_composes(root: str, retriever: str) -> None:
    overrides = [
        f"retriever={retriever}",
        "retriever.index_dir=DIR",
        "corpus.path=FILE",
        "data=bios",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(root, [*overrides, "paths.output_dir=out"])
    assert OmegaConf.missing_keys(config) == set()
    settings = instantiate(config.retriever)
    assert type(settings) is get_object(config.retriever._target_)
    if retriever == "hybrid":
        parts = {name: str(part.index_dir) for name, part in settings.retrievers.items()}
        assert parts == {"bm25": "DIR/bm25", "dense": "DIR/dense"}
        assert settings.fusion == Fusion()


def test_defaults_are_those_of_the_contract() -> None:
    config = compose_retrieval("data=squad", "retriever=bm25", "paths.output_dir=out")
    assert OmegaConf.missing_keys(config) == {"retriever.index_dir", "corpus.path"}
    assert config.ks == [1, 2, 4, 5, 6, 20]
    assert config.reranker._target_ == "retrieval.rerank.no_reranker"
    with pytest.raises(ConfigCompositionException, match="You must specify 'retriever'"):
        compose_retrieval("data=squad")


def test_questions_of_a_corpus_load_with_it(
    command: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """A folder that names passages but holds none, as data=cwq, takes those of the corpus."""
    write_jsonl(tmp_path / "bare" / "dev.jsonl", map(asdict, QUESTIONS))
    for name in ("cwq", "quasart"):
        config = command(f"data={name}", f"data.dir={tmp_path / 'bare'}")
        assert evaluate_retrieval_command(config)["n"] == len(QUESTIONS)


@pytest.mark.slow
def test_script_reports_errors_on_one_line(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "evaluate_retrieval.py"
    result = subprocess.run(
        [sys.executable, str(script), "retriever=bm25", "data=bios"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: expected a value for corpus.path, retriever.index_dir; give")
