"""Generated experts that come and go while the backbone decodes, as DMoE's trained ones do."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genpoe.routed.acting import RoutedExperts
    from genpoe.routed.kind import GeneratedKind
    from genpoe.routed.on_demand import CodesOnDemand

__all__ = ["CodesOnDemand", "GeneratedKind", "RoutedExperts"]

# The module that each of them is in.
_HOMES = {"CodesOnDemand": "on_demand", "GeneratedKind": "kind", "RoutedExperts": "acting"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands answer ``--help`` before torch is imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
