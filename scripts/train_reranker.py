"""Fine-tune a reranker: ``python scripts/train_reranker.py corpus.path=FILE …``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from plumbing.cli import run
from qa.commands.train_reranker import train_reranker_command


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_reranker")
def main(config: DictConfig) -> None:
    """See ``conf/train_reranker.yaml`` for the settings."""
    run(train_reranker_command, config)


if __name__ == "__main__":
    run(main)
