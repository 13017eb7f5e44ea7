"""Put evaluations side by side in a table, and compare them question by question."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("report", "qa.commands.report.report_command", __doc__)
