"""Evaluate DMoE once for each cell of an ablation, and draw its table and figure."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("ablation", "dmoe.commands.ablation.ablate", __doc__, with_overrides=True, needs=())
