"""Measure speed as ratios to a peer."""

from __future__ import annotations

from qa.cli import command

SUITES = {
    "train": "genpoe.benchmark_train.train_suite",
    "inject": "genpoe.benchmark_inject.inject_suite",
    "retrieval": "qa.retrieval_benchmark.retrieval_suite",
    "experts": "dmoe.benchmark.experts_suite",
    "bank": "dmoe.bank_benchmark.bank_suite",
    "decode": "dmoe.decode_benchmark.decode_suite",
}

if __name__ == "__main__":
    command("benchmark", "qa.benchmark.run_suite", __doc__, arguments=[SUITES], needs=["suite"])
