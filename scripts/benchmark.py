"""Measure speed as ratios to a peer: ``python scripts/benchmark.py suite=NAME``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from qa.benchmark import run_suite
from qa.cli import run

SUITES = {
    "train": "genpoe.benchmark_train.train_suite",
    "inject": "genpoe.benchmark_inject.inject_suite",
    "retrieval": "qa.retrieval_benchmark.retrieval_suite",
    "experts": "dmoe.benchmark.experts_suite",
    "bank": "dmoe.bank_benchmark.bank_suite",
    "decode": "dmoe.decode_benchmark.decode_suite",
}


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    """See ``conf/benchmark.yaml`` for the settings."""
    run(run_suite, config, SUITES)


if __name__ == "__main__":
    run(main)
