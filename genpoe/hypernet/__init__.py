"""Hypernetworks, which make an expert from a passage (GenPoE sec. 3.2); each has its own file."""

from __future__ import annotations

from genpoe.hypernet.hypernet import Hypernet, HypernetSettings, PassageTokens, StartSample
from genpoe.hypernet.mean import MeanHypernet, MeanSettings
from genpoe.hypernet.reader import ReaderHypernet, ReaderSettings

__all__ = [
    "Hypernet",
    "HypernetSettings",
    "MeanHypernet",
    "MeanSettings",
    "PassageTokens",
    "ReaderHypernet",
    "ReaderSettings",
    "StartSample",
]
