"""Train the backbone on the format of questions and answers, before experts are trained."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("train_warmup", "dmoe.commands.train_warmup.warmup", __doc__)
