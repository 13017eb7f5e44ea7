"""Merging the banks that several workers have built into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from qa.bank.bank import PassageBank
from qa.bank.errors import CONFLICTS, BankError, shown
from qa.bank.places import ABSENT
from qa.bank.publish import copy_rows, publish_shards
from qa.bank.records import keys_of
from qa.bank.version import View, open_view


def merge(bank: PassageBank, source: str | Path, on_conflict: str = "error") -> int:
    """Copy the rows of another bank into this one, either all of them or none.

    Each row is checked on the way. If both banks have the same row, bit for bit, there is no
    conflict, so a merge can safely be repeated.

    Args:
        bank: The bank that gets the rows.
        source: The folder of the bank that has the rows. It is only read.
        on_conflict: What to do if a passage has different rows in the two banks: raise an
            "error", "keep" the row of this bank, or "replace" it by the other one.

    Returns:
        How many rows were copied.

    Raises:
        BankError: If the other bank has rows of another kind, or if it has a different row of the
            same passage. Then nothing is copied.
        DamagedError: If a row to copy is damaged. Then nothing is copied either.
    """
    bank.check_writable()
    if on_conflict not in CONFLICTS:
        raise BankError(f"on_conflict must be one of {', '.join(CONFLICTS)}, got {on_conflict!r}")
    other = open_view(Path(source))
    other.spec.check_same(bank.spec, source)
    bank.refresh()
    take = _to_copy(bank.view, other, on_conflict)
    places = other.table.places[take]
    keys = keys_of([other.id(place) for place in places])
    before = bank.view.table.find(keys)

    def check(view: View) -> None:
        if not np.array_equal(view.table.find(keys), before):
            raise BankError(
                f"{bank.path}: another process has added or changed {bank.spec.kind} of the same "
                "passages in the meantime; merge again"
            )

    bank.view = publish_shards(bank.view, lambda: copy_rows(bank.path, other, places), check)
    return len(places)


def _to_copy(view: View, other: View, on_conflict: str) -> npt.NDArray[np.bool_]:
    """Say which rows of the other bank are to be copied, in the order of their places."""
    theirs = other.table.places
    ids = [other.id(place) for place in theirs]
    mine = view.table.find(keys_of(ids))
    both = np.flatnonzero(mine != ABSENT)
    ours = zip(*view.checksums(mine[both]), strict=True)
    others = zip(*other.checksums(theirs[both]), strict=True)
    pairs = zip(both.tolist(), ours, others, strict=True)
    differing = [index for index, our, other_ in pairs if our != other_]
    if differing and on_conflict == "error":
        raise BankError(
            f"{other.path}: passage {shown(ids[differing[0]])} (and {len(differing) - 1} more) has "
            f"another {view.spec.layout.NOUN} in {view.path}; choose on_conflict=keep or replace"
        )
    take = mine == ABSENT
    if on_conflict == "replace":
        take[differing] = True
    return take
