"""An ablation of DMoE: ``python scripts/ablation.py ablation=threshold augmenter=questions``."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dmoe.commands.ablation import ablate
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="ablation")
def main(config: DictConfig) -> None:
    """See ``conf/ablation.yaml`` for the settings."""
    run(ablate, config, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    run(main)
