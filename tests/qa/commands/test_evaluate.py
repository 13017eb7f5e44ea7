"""From the command line to metrics.json: every method and data set that is shipped composes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from backbone.model import Backbone
from plumbing.cli import one_line
from plumbing.storage.jsonl import read_jsonl, write_jsonl
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import QADataset, save_folder
from retrieval.retriever import Hit
from tests.helpers.fakes import WordRetriever

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"

Compose = Callable[..., DictConfig]


def compose_evaluate(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


@pytest.fixture
def folder(people: QADataset, tmp_path: Path) -> Path:
    save_folder(people, tmp_path / "people")
    return tmp_path / "people"


@pytest.fixture
def compose_small(
    folder: Path, tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> Compose:
    """Composes an evaluation of the small data set with the tiny backbone."""
    monkeypatch.setattr("backbone.load_backbone", lambda **settings: tiny_backbone)
    small = ["data=local", f"data.dir={folder}", f"paths.output_dir={tmp_path}", "max_new_tokens=2"]
    return lambda *overrides: compose_evaluate(*small, *overrides)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", names("data"))
def test_every_data_set_composes(name: str) -> None:
    config = compose_evaluate(f"data={name}")
    missing = OmegaConf.missing_keys(config.data)
    assert missing == ({"data.dir"} if name in ("local", "counterfact", "zsre") else set())
    assert callable(get_method(config.data._target_))


# Those that are made here, and those with forms of their own, which have their own tests.
OTHER_FORMS = {
    *("bios", "bios_long", "counting", "counterfact", "local"),
    *("mixed", "roles", "twins", "zsre"),
}


@pytest.mark.parametrize("name", sorted({*names("data")} - OTHER_FORMS))
def test_named_data_sets_load_from_a_folder(
    name: str, compose_small: Compose, folder: Path, tmp_path: Path
) -> None:
    metrics = evaluate_command(
        compose_small(f"data={name}", f"data.dir={folder}", "limit=2", "method=rag")
    )
    assert metrics["n"] == 2


@pytest.mark.parametrize("name", names("method"))
def test_every_method_composes(name: str) -> None:
    config = compose_evaluate(f"method={name}", "ckpt_path=x.ckpt", "max_new_tokens=7")
    assert config.method.max_new_tokens == 7
    assert config.method.rag is config.rag is (name in ("rag", "flare", "prag"))
    assert config.method.get("ckpt_path", "x.ckpt") == "x.ckpt"


def test_defaults_are_those_of_the_contract() -> None:
    config = compose_evaluate()
    names = ("ckpt_path", "split", "rag", "passages", "k", "limit", "max_new_tokens")
    assert [config[name] for name in names] == [None, "dev", False, "gold", 1, None, 32]
    assert config.method._target_ == "qa.method.BaseMethod"
    assert config.data._target_ == "qa.data.bios.generate"
    assert config.backbone.name == "smollm2_135m"


@pytest.mark.parametrize("key", ["passage=gold", "data.folder=x", "backbone.nme=x", "mthod=rag"])
def test_a_misspelt_key_is_an_error(key: str) -> None:
    with pytest.raises(ConfigCompositionException, match=key.split("=")[0].split(".")[-1]):
        compose_evaluate(key)


def test_rag_evaluates_and_writes(compose_small: Compose, tmp_path: Path) -> None:
    metrics = evaluate_command(compose_small("method=rag", "k=2", "batch_size=3"))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert [row["passage_ids"] for row in rows] == [[f"p{i // 2}"] for i in range(8)]
    assert metrics["n"] == 8


def test_other_passages_stand_in_the_prompt(compose_small: Compose, tmp_path: Path) -> None:
    def run(*overrides: str) -> tuple[Any, ...]:
        metrics = evaluate_command(compose_small("method=rag", *overrides))
        rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
        keys = ("passage_ids", "prompt_passage_ids")
        return metrics["nll"], *([row.get(key) for row in rows] for key in keys)

    own, other = run(), run("passages=shuffled")
    assert own[2] == other[2] == [None] * 8  # predictions name the prompt's passages if they differ
    crossed, back = (
        run("prompt_passages=shuffled"),
        run("passages=shuffled", "prompt_passages=gold"),
    )
    assert crossed == (other[0], own[1], other[1])
    assert back == (own[0], other[1], own[1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt_passages=gold"], "got rag=false; set rag=true, or leave prompt_passages out"),
        (["method=rag", "prompt_passages=golden"], "got 'golden'; set prompt_passages"),
        (["method=rag", "prompt_passages=retrieved"], "passages=retrieved needs a retrieval index"),
    ],
)
def test_passages_that_cannot_stand_in_the_prompt(
    overrides: Sequence[str], message: str, compose_small: Compose
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_command(compose_small(*overrides))


def test_base_uses_no_passages(compose_small: Compose, tmp_path: Path) -> None:
    evaluate_command(compose_small("limit=3", "seed=1"))
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert [row["passage_ids"] for row in rows] == [[], [], []]


def test_shuffled_is_the_same_for_every_batch_size(compose_small: Compose, tmp_path: Path) -> None:
    written = []
    for size in (1, 8):
        evaluate_command(compose_small("method=rag", "passages=shuffled", f"batch_size={size}"))
        rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
        written.append([row["passage_ids"] for row in rows])
    assert written[0] == written[1]
    assert all(ids != [f"p{i // 2}"] for i, ids in enumerate(written[0]))


@pytest.fixture
def compose_retrieved(compose_small: Compose, folder: Path, tmp_path: Path) -> Compose:
    """The same with an index: every passage shares the words "was", "born" with every question."""

    def composed(*overrides: str) -> DictConfig:
        config = compose_small(
            "retriever=bm25",
            "retriever.index_dir=x",
            f"corpus.path={folder / 'passages.jsonl.gz'}",
            f"paths.cache_dir={tmp_path / 'cache'}",
            *overrides,
        )
        config.retriever = {"_target_": "tests.helpers.fakes.WordSettings", "index_dir": "x"}
        return config

    return composed


@pytest.mark.parametrize("method", ["base", "rag"])
def test_retrieved_passages(method: str, compose_retrieved: Compose, tmp_path: Path) -> None:
    metrics = evaluate_command(
        compose_retrieved(
            f"method={method}", "passages=retrieved", "k=3", "pipeline.weighting=softmax"
        )
    )
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    if method == "base":  # it never sees a passage
        assert all(row["passage_ids"] == [] for row in rows)
        assert "n_fewer_than_k" not in metrics
        return
    assert (metrics["n_fewer_than_k"], metrics["n_without_passage"]) == (0, 0)
    for i, row in enumerate(rows):
        assert row["passage_ids"][0] == f"p{i // 2}"
        assert len(row["passage_ids"]) == 3
        assert sum(row["weights"]) == pytest.approx(1)
        assert row["weights"][0] > row["weights"][1]


def test_oracle_negatives(compose_retrieved: Compose, tmp_path: Path) -> None:
    overrides = ("method=rag", "passages=oracle_negative", "k=4", "pipeline.n=4", "limit=6")
    config = compose_retrieved(*overrides)
    questions = tmp_path / "people" / "dev.jsonl.gz"
    questions.unlink()
    write_jsonl(
        questions, [{"id": "q", "question": "born", "answers": ["Oakes"], "passage_ids": []}]
    )
    metrics = evaluate_command(config)
    (row,) = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert row["passage_ids"] == ["p0", "p2", "p3"]  # p1 holds the answer in its title
    assert row["weights"] == pytest.approx([1 / 3] * 3)
    assert (metrics["n"], metrics["n_fewer_than_k"], metrics["n_without_passage"]) == (1, 1, 0)


def test_evaluations_share_what_was_retrieved(
    compose_retrieved: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    search = WordRetriever.search

    def counted(self: WordRetriever, queries: Sequence[str], k: int) -> list[list[Hit]]:
        asked.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(WordRetriever, "search", counted)
    for passages in ("retrieved", "oracle_negative", "retrieved"):
        evaluate_command(compose_retrieved("method=rag", f"passages={passages}"))
    assert asked == [8]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["corpus.path=null"],
            r"a retriever needs the passages of its index; give corpus\.path=FILE",
        ),
        (["pipeline.n=2", "k=3"], "k must be in 1 … 2, the number of passages retrieved, got 3"),
        (["pipeline.n=0"], "n must be positive, got 0"),
        (["corpus.path=nowhere.jsonl"], "nowhere.jsonl: expected"),
    ],
)
def test_wrong_settings_of_retrieval_are_named(
    overrides: list[str], message: str, compose_retrieved: Compose
) -> None:
    with pytest.raises((ValueError, InstantiationException)) as caught:
        evaluate_command(compose_retrieved("method=rag", "passages=retrieved", *overrides))
    assert re.match(message, one_line(caught.value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rag=true"], "method=base never sees a passage.*use method=rag"),
        (["method=rag", "rag=false"], "method=rag puts passages into the prompt"),
        (["passages=retrieved"], "passages=retrieved needs a retrieval index"),
        (["split=test"], "data set 'local' has no split 'test'; it has: dev"),
        (["k=0", "method=rag"], "k must be a whole number of at least 1, got 0; set k$"),
        (["limit=0"], "limit must be a positive whole number or null .*, got 0; set limit$"),
        (["limit=x"], "limit must be a positive whole number or null .*, got 'x'; set limit$"),
        (["limit=true"], "limit must be .*, got True; set limit$"),
        (["k=1.5"], "k must be a whole number, got 1.5; set k$"),
        (["k=true"], "k must be a whole number, got True; set k$"),
        (["rag=perhaps"], "rag must be true or false, got 'perhaps'; set rag$"),
        (["split=null"], "split must be a text, got None; set split$"),
    ],
)
def test_wrong_settings_are_named(
    overrides: list[str], message: str, compose_small: Compose
) -> None:
    with pytest.raises((ValueError, InstantiationException)) as caught:
        evaluate_command(compose_small(*overrides))
    assert re.match(message, one_line(caught.value))


def test_missing_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a value for data\.dir; give data\.dir=…"):
        evaluate_command(compose_evaluate("data=local", f"paths.output_dir={tmp_path}"))


def test_missing_folder_is_named(compose_small: Compose, tmp_path: Path) -> None:
    with pytest.raises(InstantiationException) as caught:
        evaluate_command(compose_small(f"data.dir={tmp_path / 'nowhere'}"))
    assert one_line(caught.value).startswith(f"{tmp_path / 'nowhere'}: expected a folder")


def run_script(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (
            ["passage=gold"],
            "error: scripts/evaluate.py has no setting 'passage'; did you mean passages?",
        ),
        pytest.param(
            ["data=local", "data.dir=nowhere"],
            "error: nowhere: expected a folder",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["-m", "data=local", "data.dir=nowhere", "k=1,2"],
            "error: nowhere: expected a folder",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_script_reports_errors_on_one_line(
    arguments: list[str], start: str, tmp_path: Path
) -> None:
    result = run_script(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(start)


@pytest.mark.slow
def test_script_shows_the_traceback_on_demand(tmp_path: Path) -> None:
    result = run_script("passage=gold", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ConfigCompositionException" in result.stderr
