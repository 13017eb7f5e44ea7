"""Train the networks of an editor, MEND or MALMEN, on facts with rephrasings."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("train_editor", "genpoe.commands.train_editor.train_editor_command", __doc__)
