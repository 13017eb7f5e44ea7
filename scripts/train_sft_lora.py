"""Train one LoRA adapter on all passages: the baseline SFT-LoRA."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("train_sft_lora", "dmoe.commands.train_sft_lora.train_sft_lora", __doc__)
