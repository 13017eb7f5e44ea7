"""DMoE: every passage has a trained LoRA expert, and decoding routes to the experts it needs."""

from __future__ import annotations

from dmoe.model import DMoE

__all__ = ["DMoE"]
