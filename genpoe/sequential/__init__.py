"""Sequential editing: edits that add up, what is still known after each batch, and a journal."""

from __future__ import annotations

from genpoe.sequential.bank import PassageBank
from genpoe.sequential.journal import Commit, Journal, JournalError

__all__ = ["Commit", "Journal", "JournalError", "PassageBank"]
