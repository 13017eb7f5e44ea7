"""GenPoE: a hypernetwork reads a passage and generates an FFN expert for it."""

from __future__ import annotations

from genpoe.model import GenPoE

__all__ = ["GenPoE"]
