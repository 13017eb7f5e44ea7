"""Codes: what is kept of a passage, so that its expert can be made again without reading it.

The expert of `genpoe.hypernet.reader.ReaderHypernet` needs two things of its passage: the token ids
and a key for each of them. Both together are its code, a few kilobytes. A bank (`qa.bank`) keeps
the codes of a corpus.
"""

from __future__ import annotations

from genpoe.codes.bank import CodeBank
from genpoe.codes.layout import CodeLayout
from genpoe.codes.spec import CodeSpec

__all__ = ["CodeBank", "CodeLayout", "CodeSpec"]
