"""Make the tables and figures of both papers, each from one command."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("reproduce", "benchmarks.papers.reproduce.reproduce", __doc__, needs=["target"])
