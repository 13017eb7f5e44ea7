"""Measure our speed as a ratio to the speed of another implementation, the peer."""

from __future__ import annotations

from plumbing.cli import command

SUITES = {
    "train": "benchmarks.train.train_suite",
    "inject": "benchmarks.inject.inject_suite",
    "injection_times": "benchmarks.injection_times.injection_times_suite",
    "retrieval": "benchmarks.retrieval.retrieval_suite",
    "experts": "benchmarks.experts.experts_suite",
    "bank": "benchmarks.bank.bank_suite",
    "decode": "benchmarks.decode.decode_suite",
    "serve": "benchmarks.serve.serve_suite",
}

if __name__ == "__main__":
    command("benchmark", "benchmarks.run.run_suite", __doc__, arguments=[SUITES], needs=["suite"])
