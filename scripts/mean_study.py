"""What a mean of word embeddings can hold: ``python scripts/mean_study.py``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from genpoe.commands.mean_study import mean_study
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="mean_study")
def main(config: DictConfig) -> None:
    """See ``docs/study.md``."""
    run(mean_study, config)


if __name__ == "__main__":
    run(main)
