"""Train the hypernetwork that reads without each of its parts, with several seeds, and compare."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    target = "genpoe.commands.reader_study.reader_study"
    command("reader_study", target, __doc__, with_overrides=True)
