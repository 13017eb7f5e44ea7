"""Augmentation: writes what an expert is trained on, from its passage's text (DMoE sec. 4.3)."""

from __future__ import annotations

from dmoe.augmentation.augmenter import ModelAugmenter
from dmoe.augmentation.covering import CoveringAugmenter
from dmoe.augmentation.sources import FileAugmenter, QuestionAugmenter
from qa.writing.endpoint import EndpointWriter
from qa.writing.writer import BackboneWriter

__all__ = [
    "BackboneWriter",
    "CoveringAugmenter",
    "EndpointWriter",
    "FileAugmenter",
    "ModelAugmenter",
    "QuestionAugmenter",
]
