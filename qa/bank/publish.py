"""Writing and publishing shards. Nothing counts before a manifest that names it is in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from qa.bank.errors import BankError
from qa.bank.layout import Ends, Layout, Rows
from qa.bank.locks import publishing, writing
from qa.bank.manifest import Manifest, publish, read_bank_manifest
from qa.bank.places import Places
from qa.bank.records import Records
from qa.bank.shard import ShardEntry, write_shard
from qa.bank.version import View, open_view

SHARD_BYTES = 256 << 20  # a write that is larger is split into several shards
_ROWS = 256  # how many rows are copied at a time


def publish_shards(
    view: View,
    write: Callable[[], Iterable[ShardEntry]],
    check: Callable[[View], object] = lambda view: None,
    kept: Sequence[ShardEntry] | None = None,
) -> View:
    """Write shards, and name them in a new manifest after the shards that are there.

    Args:
        view: The version that the change was planned on.
        write: Writes the shards, one after the other.
        check: Gets the newest version, and raises an error if the shards do not fit it.
        kept: The shards of ``view`` that stay; the others are replaced by the written ones. Shards
            that other writers have added in the meantime stay as well, and come last. None keeps
            all shards.

    Returns:
        The new version.

    Raises:
        BankError: If ``write`` or ``check`` raises it, or if another process has replaced the
            shards of ``view``. Then nothing has changed.
    """
    check(view)  # fails early; what counts is the check under the lock
    written: list[ShardEntry] = []
    with writing(view.path):
        try:
            for entry in write():
                written.append(entry)
            with publishing(view.path):
                newest = open_view(view.path, view)
                check(newest)
                shards = (*_before(view, newest, kept), *written, *_since(view, newest, kept))
                if shards == newest.manifest.shards:
                    return newest
                manifest = Manifest(view.spec, newest.manifest.generation + 1, shards)
                publish(view.path, manifest)
        except BaseException:
            _discard(view.path, written)
            raise
        return View(view.path, manifest, newest)


def write_rows(
    bank: Path, layout: Layout, ids: Sequence[str], passages: Sequence[bytes], rows: Rows
) -> Iterable[ShardEntry]:
    """Write rows that are in memory.

    Args:
        bank: The bank's folder.
        layout: The layout of the bank's rows.
        ids: The ids of the N passages.
        passages: The digest of each passage.
        rows: The N rows.
    """
    for part in _parts(np.diff(rows.ends, prepend=0), SHARD_BYTES):
        some = rows.part(part)
        checksums = [hashlib.sha256(some[row].data).digest() for row in range(len(some))]
        sizes = np.diff(some.ends, prepend=0)
        records = _records(layout, ids[part], passages[part], checksums, sizes)
        yield write_shard(bank, layout, records, [some.data])


def copy_rows(
    bank: Path, view: View, places: Places, shard_bytes: int = SHARD_BYTES
) -> Iterable[ShardEntry]:
    """Write rows of an open bank, with only a few of them in memory at a time.

    Args:
        bank: The folder of the bank that gets the rows.
        view: The bank that has the rows.
        places: The places of the rows in that bank.
        shard_bytes: How large a shard may become.

    Raises:
        DamagedError: If one of the rows is damaged.
    """
    layout, sizes = view.spec.layout, view.sizes(places)
    for part in _parts(sizes, shard_bytes):
        some = places[part]
        ids = [view.id(place) for place in some]
        records = _records(layout, ids, *view.checksums(some), sizes[part])
        chunks = (some[start : start + _ROWS] for start in range(0, len(some), _ROWS))
        yield write_shard(bank, layout, records, (view.sound_rows(c).data for c in chunks))


def _records(
    layout: Layout, ids: Sequence[str], passages: Sequence[bytes], rows: list[bytes], sizes: Ends
) -> Records:
    return Records.of(ids, passages, rows, sizes if layout.row_bytes is None else None)


def _parts(sizes: Ends, shard_bytes: int) -> Iterable[slice]:
    """Divide rows of these sizes among shards; each gets one row at least."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        fits = int(np.searchsorted(ends, before + shard_bytes, side="right"))
        yield slice(start, max(start + 1, fits))
        start = max(start + 1, fits)


def _before(view: View, newest: View, kept: Sequence[ShardEntry] | None) -> Sequence[ShardEntry]:
    return newest.manifest.shards if kept is None else kept


def _since(view: View, newest: View, kept: Sequence[ShardEntry] | None) -> Sequence[ShardEntry]:
    """Return the shards that others have added to those that are replaced."""
    if kept is None:
        return ()
    planned, shards = view.manifest.shards, newest.manifest.shards
    if shards[: len(planned)] != planned:
        raise BankError(
            f"{view.path}: another process has compacted the bank in the meantime; there is "
            "nothing left to do"
        )
    return shards[len(planned) :]


def _discard(bank: Path, written: Sequence[ShardEntry]) -> None:
    """Delete shards after a failure, except those that a manifest names already."""
    with suppress(BankError, OSError):
        named = read_bank_manifest(bank)[0].shards
        for entry in written:
            if entry not in named:
                entry.delete(bank)
