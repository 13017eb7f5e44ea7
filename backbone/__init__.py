"""The frozen language model: loading, decoding, likelihood, its FFNs, and LoRA on it."""

from __future__ import annotations

from backbone.loading import load_backbone
from backbone.model import Backbone, UnsupportedBackboneError

__all__ = ["Backbone", "UnsupportedBackboneError", "load_backbone"]
