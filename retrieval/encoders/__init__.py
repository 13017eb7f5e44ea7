"""Encoders of dense retrieval, one model a file, behind one interface."""

from __future__ import annotations

from retrieval.encoders.encoder import Encoder
from retrieval.encoders.settings import EncoderSettings

__all__ = ["Encoder", "EncoderSettings"]
