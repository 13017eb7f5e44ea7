"""The card of a bank: a README.md for people who find the folder or its copy on a hub."""

from __future__ import annotations

from plumbing.storage.files import write_whole
from qa.bank.locks import writing
from qa.bank.version import View

CARD = "README.md"


def write_card(view: View) -> None:
    """Write the card into the bank's folder with `write_whole`."""
    content = view.spec.card(len(view), len(view.shards)).encode("utf-8")
    # The lock keeps a compaction from deleting the temporary file.
    with writing(view.path), write_whole(view.path / CARD, sync=False) as file:
        file.write(content)
