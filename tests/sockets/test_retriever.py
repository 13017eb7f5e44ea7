"""The socket of a retriever: a class and a YAML file, which build, rank and feed a method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbone.model import Backbone
from plumbing.cli import run
from plumbing.storage.jsonl import read_jsonl
from qa.commands.evaluate import evaluate_run
from qa.commands.evaluate_retrieval import evaluate_retrieval_command
from retrieval.commands.build_index import build_index_command


@pytest.fixture
def given(corpus_file: Path, questions_dir: Path, tmp_path: Path) -> list[str]:
    """The settings of every command that retrieves."""
    return [
        "retriever=titles",
        *(f"corpus.path={corpus_file}", f"corpus.cache_dir={tmp_path / 'cache'}"),
    ]


def test_its_index_is_built(added: Callable[..., Any], given: list[str]) -> None:
    metrics = build_index_command(added("titles", "retriever/titles")("build_index", *given))
    assert (metrics["passages"], metrics["bytes"]) == (3, 0)


def test_it_is_evaluated(
    added: Callable[..., Any], given: list[str], questions_dir: Path, tmp_path: Path
) -> None:
    config = added("titles", "retriever/titles")(
        "evaluate_retrieval",
        *given,
        *("data=local", f"data.dir={questions_dir}", "ks=[1]"),
        *("pipeline.n=2", f"pipeline.cache_dir={tmp_path / 'hits'}"),
    )
    metrics = evaluate_retrieval_command(config)
    assert (metrics["recall@1"], metrics["accuracy@1"], metrics["mrr"]) == (100, 100, 1)


def test_a_method_gets_its_passages(
    added: Callable[..., Any],
    given: list[str],
    questions_dir: Path,
    tiny_backbone: Backbone,
    tmp_path: Path,
) -> None:
    config = added("titles", "retriever/titles")(
        "evaluate",
        *given,
        *("method=rag", "passages=retrieved", "k=2", "data=local", f"data.dir={questions_dir}"),
        *("max_new_tokens=2", "pipeline.cache_dir=null"),
    )
    metrics = evaluate_run(config, backbone=tiny_backbone)
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "predictions.jsonl")]
    assert [row["passage_ids"] for row in rows] == [["a"], ["b"]]
    assert metrics["n_fewer_than_k"] == 2


def test_its_settings_are_named_where_they_are_mounted(
    added: Callable[..., Any], given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    composed = added("titles", "retriever/titles")
    with pytest.raises(SystemExit):
        run(build_index_command, composed("build_index", *given, "retriever.min_overlap=2"))
    assert capsys.readouterr().err.endswith("got 2; set retriever.min_overlap\n")
