"""Measure speed as ratios to a peer: ``python scripts/benchmark.py suite=train|inject``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from genpoe.benchmark import benchmark
from qa.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    """See ``conf/benchmark.yaml`` for the settings."""
    run(benchmark, config)


if __name__ == "__main__":
    run(main)
