"""Train on the embedded default, evaluate, print the table: what ``make train`` runs."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from genpoe.commands.quickstart import quickstart
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="quickstart")
def main(config: DictConfig) -> None:
    """See ``conf/quickstart.yaml`` for the settings."""
    run(quickstart, config)


if __name__ == "__main__":
    run(main)
