"""Hypernetworks: what makes an expert of a passage (GenPoE sec. 3.2), one a file."""

from __future__ import annotations

from genpoe.hypernet.mean import Hypernet

__all__ = ["Hypernet"]
