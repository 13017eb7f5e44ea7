"""``scripts/train_reranker.py``: from a data set and a retriever to a folder that scores."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig

from plumbing.cli import one_line
from plumbing.storage.jsonl import DataError, write_jsonl
from plumbing.training.checkpoint import CheckpointError
from qa.commands.train_reranker import (
    answers_query,
    held_out_passages,
    labelled_queries,
    train_reranker_command,
)
from qa.data.dataset import QADataset, Question, save_folder
from retrieval.bm25.index import BM25Settings
from retrieval.passage import Passage
from retrieval.rerank.rerankers import TrainedReranker
from retrieval.rerank.training.lists import LabelledQuery
from retrieval.retriever import Hit
from tests.helpers.tiny_rerankers import make_encoder_folder

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"

Compose = Callable[..., DictConfig]


def people(n: int = 12) -> QADataset:
    """Questions about people, each with a passage of its own; the last four are of dev."""
    names = [f"fox{i}" for i in range(n)]
    passages = {name: Passage(name, f"The {name}", f"It lives in town{name}.") for name in names}
    questions = [
        Question(f"q{name}", f"Where does {name} live?", (f"town{name}",), (name,))
        for name in names
    ]
    return QADataset("people", passages, {"train": questions[:-4], "dev": questions[-4:]})


class Fixed:
    """Finds everything, in the same order, for every query."""

    fingerprint = "fixed"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(id, -float(i)) for i, id in enumerate(people().passages)][:k] for _ in queries]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train_reranker", list(overrides))


@pytest.fixture
def compose_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Composes a training on people with a tiny encoder, and without Java."""
    monkeypatch.setattr(BM25Settings, "open", lambda self, corpus: Fixed())
    save_folder(people(), tmp_path / "people")
    model = make_encoder_folder(tmp_path / "model")
    small = [
        "data=local",
        f"data.dir={tmp_path / 'people'}",
        f"corpus.path={tmp_path / 'people' / 'passages.jsonl.gz'}",
        f"retriever.index_dir={tmp_path / 'index'}",
        f"cross_encoder.name={model}",
        "cross_encoder.max_tokens=64",
        "mining.val_limit=2",
        "batching.batch_size=2",
        "optim.lr=0.003",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "callbacks.checkpoint.every_n_train_steps=2",
        f"paths.output_dir={tmp_path / 'run'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "~callbacks.progress_bar",
        "+trainer.enable_progress_bar=false",
    ]
    return lambda *overrides: composed(*small, *overrides)


def test_a_run_leaves_a_reranker_metrics_log_and_checkpoint(
    compose_small: Compose, tmp_path: Path
) -> None:
    metrics = train_reranker_command(compose_small("trainer.max_epochs=2"))
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert (metrics["lists"], metrics["val_lists"], metrics["steps"]) == (6, 2, 6)
    assert {"train/loss", "val/loss", "val/accuracy@1", "val/mrr", "seconds"} <= set(metrics)
    assert (run / "csv" / "version_0" / "metrics.csv").read_text().count("\n") > 6
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    pairs = [("Where does fox1 live?", passage) for passage in people().passages.values()]
    assert len(TrainedReranker(run / "reranker", "cpu").score(pairs)) == len(pairs)
    manifest = json.loads((run / "reranker" / "manifest.json").read_text())
    assert manifest["settings"]["interaction"] == 20
    assert manifest["settings"]["training"]["optim"]["lr"] == 0.003


def test_what_is_evaluated_is_in_no_list(compose_small: Compose, tmp_path: Path) -> None:
    train_reranker_command(compose_small())
    (path,) = (tmp_path / "cache" / "reranker_lists").iterdir()
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][1:]
    dev = {id for question in people().split("dev") for id in question.passage_ids}
    found = {id for row in rows for id in row["positive_ids"] + row["negative_ids"]}
    assert found == set(people().passages) - dev
    assert len(rows) == 8


def test_gold_and_held_out_ids_of_another_corpus_are_said(
    compose_small: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**asdict(passage), "id": f"w{passage.id}"} for passage in people().passages.values()]
    write_jsonl(tmp_path / "other.jsonl", rows)
    with pytest.raises(DataError, match="give the corpus that the data set's passage_ids name"):
        train_reranker_command(compose_small(f"corpus.path={tmp_path / 'other.jsonl'}"))
    assert "none of 8 gold passages (0 %) have their id in the corpus, and 'fox0'" in caplog.text
    assert "none of 4 gold passages (0 %) have their id in the corpus, of those" in caplog.text


def test_passages_of_further_data_sets_are_held_out(tmp_path: Path) -> None:
    dataset = people()
    save_folder(dataset, tmp_path / "other")
    dev = {"fox8", "fox9", "fox10", "fox11"}
    assert held_out_passages(dataset, "dev", []) == dev
    assert held_out_passages(dataset, None, []) == frozenset()
    assert held_out_passages(dataset, None, [str(tmp_path / "other")]) == dev
    with pytest.raises(DataError, match="has no split 'test'"):
        held_out_passages(dataset, "test", [])


def test_questions_become_queries() -> None:
    assert labelled_queries(people().split("train")[:1]) == [
        LabelledQuery("Where does fox0 live?", ("townfox0",), ("fox0",))
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_goes_on_from_its_checkpoint(
    compose_small: Compose, tmp_path: Path, dropout: float
) -> None:
    settings = ["trainer.max_epochs=2", f"cross_encoder.dropout={dropout}"]
    train_reranker_command(compose_small(*settings))
    whole = (tmp_path / "run" / "reranker" / "model.safetensors").read_bytes()
    # The version before the last is of the middle of the second epoch.
    path = tmp_path / "middle.ckpt"
    path.write_bytes((tmp_path / "run" / "checkpoints" / "last.previous.ckpt").read_bytes())
    assert torch.load(path, weights_only=True)["global_step"] == 4
    assert train_reranker_command(compose_small(*settings, f"ckpt_path={path}"))["steps"] == 6
    assert (tmp_path / "run" / "reranker" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mining.val_limit=-5", r"val_limit must be at least 0, got -5; set mining\.val_limit"),
        ("mining.val_limit=2.5", r"val_limit must be a whole number, got 2\.5; set mining\.val"),
        ("mining.limit=0", r"limit must be a positive whole .*, got 0; set mining\.limit"),
        ("mining.depth=deep", r"depth must be a whole number, got 'deep'; set mining\.depth"),
        (
            "mining.held_out_dirs=/a/path",
            r"held_out_dirs must be a list, each entry a text, got '/a/path'; set mining\.held",
        ),
        ("mining.cached=maybe", r"cached must be true or false, got 'maybe'; set mining\.cached"),
        ("optim.lr=abc", r"lr must be a number, got 'abc'; set optim\.lr"),
        ("optim.lr=nan", "lr must be positive, got nan; set optim"),
        ("optim.schedule=3", r"schedule must be a text, got 3; set optim\.schedule"),
        ("batching.batch_size=1.5", r"batch_size must be a whole number, got 1\.5; set batching"),
        ("batching.negatives=0", r"negatives must be at least 1, got 0; set batching\.negatives"),
        ("batching.seed=x", r"seed must be a whole number, got 'x'; set batching\.seed"),
        ("seed=-1", "seed must be a whole number in 0 … 4294967295, got -1; set seed"),
        ("seed=one", "seed must be a whole number in .*, got 'one'; set seed"),
        ("retriever.k1=abc", r"k1 must be a number, got 'abc'; set retriever\.k1"),
        (
            "cross_encoder.max_tokens=abc",
            r"max_tokens must be a whole number, got 'abc'; set cross",
        ),
    ],
)
def test_a_wrong_setting_is_named_before_mining(
    compose_small: Compose, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    mined: list[Any] = []
    monkeypatch.setattr("qa.commands.train_reranker.mine_cached", lambda *all: mined.append(all))
    with pytest.raises((ValueError, InstantiationException)) as error:
        train_reranker_command(compose_small(change))
    assert re.search(message, one_line(error.value))
    assert not mined


def test_negatives_are_those_of_oracle_negatives() -> None:
    query = LabelledQuery("Which navy?", ("U.S. Navy",), ("gold",))
    assert answers_query(query, Passage("p", "", "He joined the US Navy."))
    assert answers_query(query, Passage("p", "The U.S. Navy", "It sails."))
    assert not answers_query(query, Passage("p", "", "He joined the army."))
    either = LabelledQuery("Is it so?", ("no",), ("gold",))
    assert answers_query(either, Passage("gold", "", "It is."))
    assert not answers_query(either, Passage("p", "", "There is no such thing."))


def test_never_starts_afresh_silently(compose_small: Compose) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.ckpt.*no such file"):
        train_reranker_command(compose_small("ckpt_path=nowhere.ckpt"))
    with pytest.raises(CheckpointError, match="ckpt_path must be a file, got 'last'"):
        train_reranker_command(compose_small("ckpt_path=last"))


def test_missing_settings_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"expected a value for corpus\.path, retriever\.index_dir"
    ):
        train_reranker_command(composed("paths.output_dir=x"))


@pytest.mark.parametrize("key", ["mining.dept=3", "optim.learning_rate=1", "cross_encoder.nme=x"])
def test_a_misspelt_key_is_an_error(key: str) -> None:
    with pytest.raises(ConfigCompositionException, match=key.split("=")[0].split(".")[-1]):
        composed(key)


@pytest.mark.parametrize("option", sorted(p.stem for p in (CONF / "cross_encoder").glob("*.yaml")))
def test_every_cross_encoder_composes(option: str) -> None:
    config = composed(f"cross_encoder={option}")
    build: Any = get_object(config.cross_encoder._target_)
    names = set(inspect.signature(build).parameters)
    assert set(config.cross_encoder) - {"_target_"} <= names


@pytest.mark.parametrize("retriever", sorted(p.stem for p in (CONF / "retriever").glob("*.yaml")))
def test_every_retriever_composes(retriever: str) -> None:
    assert composed(f"retriever={retriever}").retriever._target_.startswith("retrieval.")


@pytest.mark.slow
def test_the_script_reports_errors_on_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train_reranker.py"), "corpus.path=nowhere"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "error: expected a value for retriever.index_dir; give retriever.index_dir=…"
    )
