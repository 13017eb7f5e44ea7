"""Train on the embedded data, evaluate, and print the table: what make train runs."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("quickstart", "genpoe.commands.quickstart.quickstart", __doc__)
