"""Evaluate GenPoE with RAG where prompt and expert have different passages, as a control."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("crossed", "genpoe.commands.crossed.crossed", __doc__)
