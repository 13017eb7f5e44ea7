"""Try settings of an editor on training facts, equally many for every editor."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("tune_editor", "genpoe.commands.tune_editor.tune", __doc__)
