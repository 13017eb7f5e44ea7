"""The choice of the passages that a method may use to answer a question."""

from __future__ import annotations

from qa.passages.choose import make_passage_source
from qa.passages.source import NoPassages, PassageSource, Selection

__all__ = ["NoPassages", "PassageSource", "Selection", "make_passage_source"]
