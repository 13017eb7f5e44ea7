"""Evaluate a retriever, and a reranker behind it, on the questions of a data set."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("evaluate_retrieval", "qa.retrieval_command.evaluate_retrieval_command", __doc__)
