"""From the command line to metrics.json: every method and data set that is shipped composes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from qa.backbone import Backbone
from qa.cli import one_line
from qa.dataset import QADataset, save_folder
from qa.evaluate_command import evaluate_command
from retrieval.jsonl import read_jsonl

ROOT = Path(__file__).parents[2]
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
    monkeypatch.setattr("qa.backbone.load_backbone", lambda **settings: tiny_backbone)
    small = ["data=local", f"data.dir={folder}", f"paths.output_dir={tmp_path}", "max_new_tokens=2"]
    return lambda *overrides: compose_evaluate(*small, *overrides)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", names("data"))
def test_every_data_set_composes(name: str) -> None:
    config = compose_evaluate(f"data={name}")
    missing = OmegaConf.missing_keys(config.data)
    assert missing == ({"data.dir"} if name == "local" else set())
    assert callable(get_method(config.data._target_))


@pytest.mark.parametrize("name", [name for name in names("data") if name not in ("bios", "local")])
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
    assert config.method.rag is config.rag is (name == "rag")
    assert config.method.get("ckpt_path", "x.ckpt") == "x.ckpt"


def test_defaults_are_those_of_the_contract() -> None:
    config = compose_evaluate()
    names = ("ckpt_path", "split", "rag", "passages", "k", "limit", "max_new_tokens")
    assert [config[name] for name in names] == [None, "dev", False, "gold", 1, None, 32]
    assert config.method._target_ == "qa.method.BaseMethod"
    assert config.data._target_ == "qa.bios.generate"
    assert config.model.backbone.name == "smollm2_135m"


@pytest.mark.parametrize(
    "key", ["passage=gold", "data.folder=x", "model.backbone.nme=x", "mthod=rag"]
)
def test_a_misspelt_key_is_an_error(key: str) -> None:
    with pytest.raises(ConfigCompositionException, match=key.split("=")[0].split(".")[-1]):
        compose_evaluate(key)


def test_rag_evaluates_and_writes(compose_small: Compose, tmp_path: Path) -> None:
    metrics = evaluate_command(compose_small("method=rag", "k=2", "batch_size=3"))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert [row["passage_ids"] for row in rows] == [[f"p{i // 2}"] for i in range(8)]
    assert metrics["n"] == 8


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rag=true"], "method=base never sees a passage.*use method=rag"),
        (["method=rag", "rag=false"], "method=rag is passages in the prompt"),
        (["passages=retrieved"], "passages=retrieved needs a retrieval index"),
        (["split=test"], "data set 'local' has no split 'test'; it has: dev"),
        (["k=0", "method=rag"], "k must be at least 1"),
        (["limit=0"], "limit must be positive"),
        (["limit=x"], "Value 'x' .* could not be converted to Integer full_key: limit"),
        (["k=1.5"], "Value '1.5' .* could not be converted to Integer full_key: k"),
        (["rag=perhaps"], "Value 'perhaps' is not a valid bool .* full_key: rag"),
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
        (["passage=gold"], "error: Could not override 'passage'. To append to your config"),
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
