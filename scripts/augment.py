"""Write rewrites and question-answer pairs for passages; experts are trained on them."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("augment", "dmoe.commands.augment.augment_command", __doc__, needs=())
