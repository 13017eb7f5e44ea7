"""Evaluate a retriever, with or without a reranker, on the questions of a data set."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command(
        "evaluate_retrieval", "qa.commands.evaluate_retrieval.evaluate_retrieval_command", __doc__
    )
