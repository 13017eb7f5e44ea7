"""Put evaluations side by side, and compare them question by question."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("report", "qa.report_command.report_command", __doc__)
