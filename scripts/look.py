"""Show where the hypernetwork that reads looks in a passage while it answers a few questions."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("look", "genpoe.commands.look.look", __doc__)
