"""The socket of an encoder: a class and a YAML file, which index and search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbing.cli import run
from qa.commands.evaluate_retrieval import evaluate_retrieval_command
from retrieval.commands.build_index import build_index_command


@pytest.fixture
def given(corpus_file: Path, tmp_path: Path) -> list[str]:
    """The settings of every command that retrieves."""
    return [
        *("retriever=hashing", f"retriever.index_dir={tmp_path / 'index'}"),
        *(f"corpus.path={corpus_file}", f"corpus.cache_dir={tmp_path / 'cache'}"),
    ]


def test_a_dense_index_is_built_and_searched(
    added: Callable[..., Any], given: list[str], questions_dir: Path
) -> None:
    composed = added("hashing", "retriever/hashing")
    built = build_index_command(composed("build_index", *given))
    assert built["passages"] == 3
    assert built["bytes"] > 0
    config = composed(
        "evaluate_retrieval",
        *given,
        *("data=local", f"data.dir={questions_dir}", "ks=[1]"),
        *("pipeline.n=2", "pipeline.cache_dir=null"),
    )
    assert evaluate_retrieval_command(config)["recall@1"] == 100


def test_an_index_of_other_settings_is_refused(
    added: Callable[..., Any], given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    composed = added("hashing", "retriever/hashing")
    build_index_command(composed("build_index", *given))
    other = composed("build_index", *given, "retriever.encoder.dimension=16")
    with pytest.raises(SystemExit):
        run(build_index_command, other)
    assert "or set another retriever.index_dir and build" in capsys.readouterr().err


def test_its_settings_are_named_where_they_are_mounted(
    added: Callable[..., Any], given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    composed = added("hashing", "retriever/hashing")
    with pytest.raises(SystemExit):
        run(
            build_index_command, composed("build_index", *given, "retriever.encoder.dimension=many")
        )
    assert capsys.readouterr().err.endswith("'many'; set retriever.encoder.dimension\n")
