"""The socket of a data set: a converter and a YAML file, which every command can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbone.model import Backbone
from plumbing.storage.jsonl import read_jsonl
from qa.commands.evaluate import evaluate_run
from qa.commands.evaluate_retrieval import evaluate_retrieval_command

TABLE = """split,question,answer,title,text
dev,Where was Tova Blick born?,Lisbon,Tova Blick,Tova Blick was born in Lisbon.
dev,Who was born in Lisbon?,Tova Blick,Tova Blick,Tova Blick was born in Lisbon.
test,What did Olen Marsk write?,The Salt Road,Olen Marsk,Olen Marsk wrote The Salt Road.
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def test_a_method_is_evaluated_on_it(
    added: Callable[..., Any], table: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    composed = added("csv_data", "data/csv")
    config = composed(
        "evaluate", "method=rag", "data=csv", f"data.path={table}", "max_new_tokens=2", "split=test"
    )
    metrics = evaluate_run(config, backbone=tiny_backbone)
    [(_, row)] = read_jsonl(tmp_path / "run" / "predictions.jsonl")
    assert metrics["n"] == 1
    assert (row["answers"], row["passage_ids"]) == (["The Salt Road"], ["csv-1"])


def test_retrieval_is_evaluated_on_it(
    added: Callable[..., Any], table: Path, corpus_file: Path, tmp_path: Path
) -> None:
    composed = added("csv_data", "data/csv")
    config = composed(
        "evaluate_retrieval",
        *("data=csv", f"data.path={table}", "ks=[1]", "pipeline.n=2", "pipeline.cache_dir=null"),
        *("retriever=dense", f"retriever.index_dir={tmp_path / 'index'}"),
        *(f"corpus.path={corpus_file}", f"corpus.cache_dir={tmp_path / 'cache'}"),
    )
    config.retriever = {"_target_": "tests.helpers.fakes.WordSettings"}
    metrics = evaluate_retrieval_command(config)
    assert metrics["n"] == 2
    assert metrics["accuracy@1"] == 100
