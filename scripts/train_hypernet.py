"""Meta-train a GenPoE hypernetwork: ``python scripts/train_hypernet.py [trainer.devices=8] …``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from genpoe.commands.train_hypernet import train
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_hypernet")
def main(config: DictConfig) -> float | None:
    """See ``conf/train_hypernet.yaml`` for the settings; returns what a sweep minimises."""
    return run(train, config).get(config.optimized_metric)


if __name__ == "__main__":
    run(main)
