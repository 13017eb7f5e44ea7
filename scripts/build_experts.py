"""Build a bank of experts: ``python scripts/build_experts.py data=bios bank.dir=DIR``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from dmoe.commands.build_experts import build_command
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_experts")
def main(config: DictConfig) -> None:
    """See ``conf/build_experts.yaml`` for the settings."""
    run(build_command, config)


if __name__ == "__main__":
    run(main)
