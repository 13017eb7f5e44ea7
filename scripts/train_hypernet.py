"""Train a GenPoE hypernetwork, which generates an expert from a passage."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("train_hypernet", "genpoe.commands.train_hypernet.train_command", __doc__)
