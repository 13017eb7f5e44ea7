"""PRAG: every passage has an adapter on the FFNs of all layers (Su et al. 2025)."""

from __future__ import annotations

from dmoe.baselines.prag.method import load_prag

__all__ = ["load_prag"]
