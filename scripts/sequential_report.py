"""Show runs of sequential editing side by side, as heat maps and as a table."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("sequential_report", "genpoe.commands.sequential_report.sequential_report", __doc__)
