"""Evaluate a method on the questions of a data set."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("evaluate", "qa.evaluate_command.evaluate_command", __doc__)
