"""Fine-tune a reranker on the questions of a data set."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("train_reranker", "qa.commands.train_reranker.train_reranker_command", __doc__)
