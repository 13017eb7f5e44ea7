"""Read passages once, and keep in a bank what a trained hypernetwork needs of them."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("encode_passages", "genpoe.commands.encode_passages.encode_command", __doc__)
