"""Train an expert for each passage and put the experts into a bank."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("build_experts", "dmoe.commands.build_experts.build_command", __doc__)
