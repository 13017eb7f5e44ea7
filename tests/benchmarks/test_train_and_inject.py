"""The benchmarks run, compare equal things, and say so when they are not."""

from __future__ import annotations

import json
from pathlib import Path

import hydra.utils
import pytest
from hydra import compose, initialize_config_dir

from benchmarks import inject as benchmark_inject
from benchmarks import train as benchmark_train
from benchmarks.run import run_suite
from tests.helpers.tiny import make_backbone

ROOT = Path(__file__).parents[2]
SUITES = {
    "train": "benchmarks.train.train_suite",
    "inject": "benchmarks.inject.inject_suite",
}

MEAN = ("hypernet.layer=1", "hypernet.rank=2", "hypernet.hidden_width=8")
READER = (
    *("hypernet=reader", "hypernet.layer=1", "hypernet.read_layer=1", "hypernet.query_layers=[1]"),
    *("hypernet.hidden_width=8", "hypernet.key_width=4", "hypernet.common_rank=2"),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run_one(suite, hypernet=MEAN):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(
                "benchmark",
                [
                    f"suite={suite}",
                    "rounds=2",
                    "passages_per_batch=3",
                    "questions_per_passage=2",
                    "new_tokens=4",
                    "data.train_entities=20",
                    "data.dev_entities=6",
                    "data.distractor_entities=0",
                    *hypernet,
                    f"paths.output_dir={tmp_path}",
                ],
            )
        build = hydra.utils.instantiate

        def tiny(*_, **__):
            return make_backbone(max_position_embeddings=4096)

        for module in (benchmark_train, benchmark_inject):
            monkeypatch.setattr(
                module, "instantiate", lambda c: tiny() if "load_backbone" in str(c) else build(c)
            )
        monkeypatch.setattr(benchmark_train, "load_backbone", tiny)
        return run_suite(config, SUITES)

    return run_one


def test_training(run, tmp_path):
    result = run("train")
    assert result["equality"]["ours"] == pytest.approx(result["equality"]["obvious"], rel=1e-4)
    assert json.loads((tmp_path / "train.json").read_text())["ours"]["median"] > 0
    assert "examples per second" in (tmp_path / "train.md").read_text()


def test_injection(run, tmp_path):
    result = run("inject")
    assert result["decoding_over_plain"]["median"] > 0
    assert "| ratio (median, range) |" in (tmp_path / "inject.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["decoding_over_plain/median"] == result["decoding_over_plain"]["median"]


def test_injection_of_what_reads_is_compared_with_reading(run, tmp_path):
    result = run("inject", READER)
    assert result["generation_over_reading"]["median"] > 0
    assert "the first 1 layers alone" in (tmp_path / "inject.md").read_text()


def test_what_differs_is_not_compared(run, monkeypatch):
    loss = benchmark_train.obvious_loss
    monkeypatch.setattr(benchmark_train, "obvious_loss", lambda *args: loss(*args) * 1.01)
    with pytest.raises(ValueError, match="ours and the obvious way differ"):
        run("train")


def test_an_unknown_suite_is_an_error(run):
    with pytest.raises(ValueError, match="suite must be one of train, inject, got 'speed'"):
        run("speed")
