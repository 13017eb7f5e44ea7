"""The embedded data set "bios": passages about invented entities, as in an encyclopaedia."""

from __future__ import annotations

from qa.data.bios.generator import generate

__all__ = ["generate"]
