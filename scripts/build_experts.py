"""Train an expert for each passage, and put them into a bank."""

from __future__ import annotations

from qa.cli import command

if __name__ == "__main__":
    command("build_experts", "dmoe.build.build_command", __doc__)
