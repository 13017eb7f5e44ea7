"""Writing and publishing shards. Nothing counts before a manifest that names it is in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor, uint8

from qa.bank.errors import BankError
from dmoe.bank.layout import ExpertLayout
from qa.bank.locks import publishing, writing
from qa.bank.manifest import Manifest, publish, read_bank_manifest
from qa.bank.places import Places
from qa.bank.records import Records
from qa.bank.shard import ShardEntry, write_shard
from qa.bank.version import View, open_view

SHARD_BYTES = 256 << 20  # a write that is larger is split into several shards
_ROWS = 256  # how many experts are copied at a time


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
    bank: Path, layout: ExpertLayout, ids: Sequence[str], passages: Sequence[bytes], rows_NP: Tensor
) -> Iterable[ShardEntry]:
    """Write experts that are in memory.

    Args:
        bank: The bank's folder.
        layout: The layout of the bank's experts.
        ids: The ids of the N passages.
        passages: The SHA-256 of each passage.
        rows_NP: The weights of the experts.
    """
    raw = rows_NP.view(uint8).numpy()
    for part in _parts(len(ids), layout, SHARD_BYTES):
        weights = [hashlib.sha256(row).digest() for row in raw[part]]
        records = Records.of(ids[part], passages[part], weights)
        yield write_shard(bank, layout, records, [raw[part]])


def copy_rows(
    bank: Path, view: View, places: Places, shard_bytes: int = SHARD_BYTES
) -> Iterable[ShardEntry]:
    """Write experts of an open bank, with only a few of them in memory at a time.

    Args:
        bank: The folder of the bank that gets the experts.
        view: The bank that has the experts.
        places: The places of the experts in that bank.
        shard_bytes: How large a shard may become.

    Raises:
        DamagedExpertError: If one of the experts is damaged.
    """
    for part in _parts(len(places), view.spec.layout, shard_bytes):
        some = places[part]
        records = Records.of([view.id(place) for place in some], *view.checksums(some))
        chunks = (some[start : start + _ROWS] for start in range(0, len(some), _ROWS))
        rows = (view.sound_rows(chunk).view(uint8).numpy() for chunk in chunks)
        yield write_shard(bank, view.spec.layout, records, rows)


def _parts(count: int, layout: ExpertLayout, shard_bytes: int) -> Iterable[slice]:
    step = max(1, shard_bytes // layout.row_bytes)
    return (slice(start, start + step) for start in range(0, count, step))


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
