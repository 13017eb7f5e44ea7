"""Look after an expert bank: ``python scripts/bank.py verify|list|compact|… DIR``; see ``-h``."""

from __future__ import annotations

from dmoe.commands.bank import bank_command
from plumbing.cli import run

if __name__ == "__main__":
    run(bank_command)
