"""Augment passages: rewrites and question-answer pairs, from which experts are trained."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("augment", "dmoe.augment_command.augment_command", __doc__, needs=())
