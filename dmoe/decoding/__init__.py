"""Cached decoding, with experts routed where the model is uncertain (DMoE sec. 3.2.2)."""

from __future__ import annotations

from dmoe.decoding.decoder import DMoEDecoder
from dmoe.decoding.router import OracleRouter, RandomRouter, RetrievalRouter, retrieval_router
from dmoe.decoding.trigger import (
    ConstantTrigger,
    FirstTrigger,
    RandomTrigger,
    UncertaintyTrigger,
)

__all__ = [
    "ConstantTrigger",
    "DMoEDecoder",
    "FirstTrigger",
    "OracleRouter",
    "RandomRouter",
    "RandomTrigger",
    "RetrievalRouter",
    "UncertaintyTrigger",
    "retrieval_router",
]
