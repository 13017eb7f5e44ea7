"""One LoRA adapter on the FFNs or the attention of a backbone."""

from __future__ import annotations

from backbone.lora.adapter import LoraAdapter, LoraSettings

__all__ = ["LoraAdapter", "LoraSettings"]
