"""The embedded data sets "bios" and "bios_long": passages about invented entities."""

from __future__ import annotations

from qa.data.bios.generator import generate, generate_long
from qa.data.bios.known import known_questions
from qa.data.bios.questions import other_phrasings

__all__ = ["generate", "generate_long", "known_questions", "other_phrasings"]
