"""Build the index that a retriever searches."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("build_index", "retrieval.commands.build_index.build_index_command", __doc__)
