"""Evaluate a method on the questions of a data set."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("evaluate", "qa.commands.evaluate.evaluate_command", __doc__)
