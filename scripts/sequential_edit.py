"""Edit facts or passages batch after batch, and ask after each batch what is still known."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command(
        "sequential_edit",
        "genpoe.commands.sequential_edit.sequential_edit",
        __doc__,
        with_overrides=True,
        needs=(),
    )
