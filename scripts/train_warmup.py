"""Warm up the backbone for experts: ``python scripts/train_warmup.py data=bios``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from dmoe.commands.train_warmup import warmup
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_warmup")
def main(config: DictConfig) -> None:
    """See ``conf/train_warmup.yaml`` for the settings."""
    run(warmup, config)


if __name__ == "__main__":
    run(main)
