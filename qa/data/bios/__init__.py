"""The embedded data set: encyclopaedia-like passages about invented entities."""

from __future__ import annotations

from qa.data.bios.generator import generate

__all__ = ["generate"]
