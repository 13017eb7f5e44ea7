"""Live use: passages come and go while a frozen model answers, with the source of each token."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live.answer import Answer, Ask, Token
    from live.session import KnowledgeSession
    from live.settings import SessionSettings

__all__ = ["Answer", "Ask", "KnowledgeSession", "SessionSettings", "Token"]

# The module that each of them is in.
_HOMES = {
    **dict.fromkeys(("Answer", "Ask", "Token"), "answer"),
    "KnowledgeSession": "session",
    "SessionSettings": "settings",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands answer ``--help`` before torch is imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
