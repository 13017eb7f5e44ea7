"""DMoE: every passage has a trained LoRA expert, and decoding routes to the experts it needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmoe.model import DMoE

__all__ = ["DMoE"]

# The module that it is in.
_HOMES = {"DMoE": "model"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands answer ``--help`` before torch is imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
