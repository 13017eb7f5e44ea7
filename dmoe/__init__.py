"""DMoE: every passage has a trained LoRA expert, routed to while decoding."""

from __future__ import annotations

from dmoe.model import DMoE

__all__ = ["DMoE"]
