"""Evaluations side by side: ``python scripts/report.py runs=[RUN1,RUN2,…] labels=[…]``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from plumbing.cli import run
from qa.commands.report import report_command


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(config: DictConfig) -> None:
    """See ``conf/report.yaml`` for the settings."""
    run(report_command, config)


if __name__ == "__main__":
    run(main)
