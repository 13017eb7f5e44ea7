"""What a language model writes about passages: the writers, and how their answers are read."""

from __future__ import annotations

from qa.writing.endpoint import EndpointWriter
from qa.writing.writer import BackboneWriter

__all__ = ["BackboneWriter", "EndpointWriter"]
