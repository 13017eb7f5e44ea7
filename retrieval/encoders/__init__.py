"""Encoders of dense retrieval, behind one interface, with one kind of model in each file."""

from __future__ import annotations

from retrieval.encoders.dpr import DPRSettings
from retrieval.encoders.encoder import Encoder, EncoderMaker
from retrieval.encoders.sentence import SentenceSettings
from retrieval.encoders.settings import (
    EncoderSettings as EncoderSettings,  # old configurations name it
)
from retrieval.encoders.settings import encoder_settings
from retrieval.encoders.sgpt import SGPTSettings

__all__ = [
    "DPRSettings",
    "Encoder",
    "EncoderMaker",
    "SGPTSettings",
    "SentenceSettings",
    "encoder_settings",
]
