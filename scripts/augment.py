"""Augment passages: ``python scripts/augment.py corpus.path=FILE``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from dmoe.commands.augment import augment_command
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="augment")
def main(config: DictConfig) -> None:
    """See ``conf/augment.yaml`` for the settings."""
    run(augment_command, config)


if __name__ == "__main__":
    run(main)
