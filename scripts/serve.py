"""Serve a model whose passages come and go: an OpenAI-style API, and a page to try it."""

from __future__ import annotations

from plumbing.cli import command

# What a router of other commands needs, such as an index, is not needed here.
NEEDS = ["backbone", "data", "corpus", "bank", "reranker", "trigger"]

if __name__ == "__main__":
    command("serve", "live.commands.serve.serve_command", __doc__, needs=NEEDS)
