"""Hypernetworks: what makes an expert of a passage (GenPoE sec. 3.2), one a file."""

from __future__ import annotations

from genpoe.hypernet.hypernet import Hypernet, HypernetSettings, PassageTokens, StartSample
from genpoe.hypernet.mean import MeanHypernet, MeanSettings

__all__ = [
    "Hypernet",
    "HypernetSettings",
    "MeanHypernet",
    "MeanSettings",
    "PassageTokens",
    "StartSample",
]
