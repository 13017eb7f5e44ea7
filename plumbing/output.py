"""The one place where a command prints its result on stdout."""

from __future__ import annotations

import sys


def show(text: str) -> None:
    """Print some text, such as a table, as it is, and end the line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
