"""Fine-tune a reranker on the questions of a data set."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("train_reranker", "qa.train_reranker_command.train_reranker_command", __doc__)
