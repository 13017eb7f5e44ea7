"""Evaluate a method: ``python scripts/evaluate.py method=rag data=bios passages=gold``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from plumbing.cli import run
from qa.commands.evaluate import evaluate_command


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """See ``conf/evaluate.yaml`` for the settings."""
    run(evaluate_command, config)


if __name__ == "__main__":
    run(main)
