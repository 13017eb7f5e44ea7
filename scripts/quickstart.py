"""Train GenPoE on the embedded data, evaluate it, and print a table."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("quickstart", "genpoe.commands.quickstart.quickstart", __doc__)
