"""SFT-LoRA: one adapter that is trained on all passages (DMoE sec. 4.2)."""

from __future__ import annotations

from dmoe.baselines.sft_lora.method import SFTLoRAMethod

__all__ = ["SFTLoRAMethod"]
