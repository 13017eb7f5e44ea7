"""Build the index that a retriever searches."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("build_index", "retrieval.build_command.build_index_command", __doc__)
