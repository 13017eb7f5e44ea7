"""Train one LoRA adapter over the merged corpus: ``python scripts/train_sft_lora.py data=bios``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from dmoe.commands.train_sft_lora import train_sft_lora
from plumbing.cli import run


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_sft_lora")
def main(config: DictConfig) -> None:
    """See ``conf/train_sft_lora.yaml`` for the settings."""
    run(train_sft_lora, config)


if __name__ == "__main__":
    run(main)
