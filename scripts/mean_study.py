"""Measure what a mean of word embeddings can hold; docs/study.md tells the story."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("mean_study", "genpoe.commands.mean_study.mean_study", __doc__)
