"""Measure speed as ratios to a peer: ``python scripts/benchmark.py suite=NAME``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from benchmarks.run import run_suite
from plumbing.cli import run

SUITES = {
    "train": "benchmarks.train.train_suite",
    "inject": "benchmarks.inject.inject_suite",
    "retrieval": "benchmarks.retrieval.retrieval_suite",
    "experts": "benchmarks.experts.experts_suite",
    "bank": "benchmarks.bank.bank_suite",
    "decode": "benchmarks.decode.decode_suite",
}


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    """See ``conf/benchmark.yaml`` for the settings."""
    run(run_suite, config, SUITES)


if __name__ == "__main__":
    run(main)
