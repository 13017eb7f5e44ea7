"""Train on the embedded data, evaluate, and print the table: what make train runs."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("quickstart", "genpoe.quickstart.quickstart", __doc__)
