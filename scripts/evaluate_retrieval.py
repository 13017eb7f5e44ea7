"""Evaluate retrieval: ``python scripts/evaluate_retrieval.py retriever=bm25 data=squad …``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from plumbing.cli import run
from qa.commands.evaluate_retrieval import evaluate_retrieval_command


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate_retrieval")
def main(config: DictConfig) -> None:
    """See ``conf/evaluate_retrieval.yaml`` for the settings."""
    run(evaluate_retrieval_command, config)


if __name__ == "__main__":
    run(main)
