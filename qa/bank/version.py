"""One version of a bank as a reader sees it. It stays the same until the reader looks again.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qa.bank.errors import BankError, DamagedError, shown
from qa.bank.layout import Ends, Rows
from qa.bank.manifest import Manifest, read_bank_manifest
from qa.bank.places import ABSENT, Places, PlaceTable, split_place, split_places
from qa.bank.records import SHA_BYTES, keys_of
from qa.bank.shard import Shard
from qa.bank.spec import Spec

_BATCH = 256  # how many rows are in memory at a time


class View:
    """A version of a bank with all its shards open, so that no writer can take one away.

    Args:
        path: The bank's folder.
        manifest: The manifest of this version.
        before: An earlier version. The shards that are open there are not opened again.

    Attributes:
        path: The bank's folder.
        manifest: The manifest of this version.
        shards: All shards, open.
        table: Says where each row is.

    Raises:
        BankError: If a shard cannot be opened.
    """

    def __init__(self, path: Path, manifest: Manifest, before: View | None = None) -> None:
        self.path = path
        self.manifest = manifest
        known = {shard.entry: shard for shard in before.shards} if before else {}
        layout = manifest.spec.layout
        self.shards: tuple[Shard, ...] = tuple(
            known.get(entry) or Shard(path, entry, layout) for entry in manifest.shards
        )
        first, table = 0, PlaceTable()
        if before and manifest.shards[: len(before.shards)] == before.manifest.shards:
            first, table = len(before.shards), before.table
        self.table: PlaceTable = table.extended(
            [
                (number, shard.records, shard.entry.removed)
                for number, shard in enumerate(self.shards[first:], start=first)
            ]
        )

    @property
    def spec(self) -> Spec:
        """What all rows of the bank have in common."""
        return self.manifest.spec

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and int(self.table.find(keys_of([id]))[0]) != ABSENT

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[str]:
        return (self.id(place) for place in self.table.places.tolist())

    def id(self, place: int) -> str:
        """Return the passage id of the row at a place."""
        shard, row = split_place(place)
        return self.shards[shard].records.id(row)

    def places(self, ids: Sequence[str]) -> Places:
        """Look up the places ``[N]`` of rows by passage id.

        Raises:
            BankError: If a passage has no row; the message names its id.
        """
        if isinstance(ids, str):
            raise BankError(f"expected a list of passage ids, got the string {shown(ids)}")
        places = self.table.find(keys_of(ids))
        absent = np.flatnonzero(places == ABSENT)
        if len(absent):
            layout = self.spec.layout
            raise BankError(
                f"{self.path}: no {layout.NOUN} of passage {shown(ids[absent[0]])} (nor of "
                f"{len(absent) - 1} more of the {len(ids)} asked for); ask only for ids that are "
                f"in the bank, or make what it lacks ({layout.MADE_BY})"
            )
        return places

    def sizes(self, places: Places) -> Ends:
        """How many bytes rows have ``[N]``, by their places."""
        sizes = np.empty(len(places), np.int64)
        numbers, rows = split_places(places)
        for number in np.unique(numbers):
            here = numbers == number
            sizes[here] = self.shards[number].sizes(rows[here])
        return sizes

    def rows(self, places: Places) -> tuple[Rows, dict[int, str]]:
        """Read and check rows.

        Args:
            places: The places ``[N]`` of the rows.

        Returns:
            A copy of the rows, and what is wrong with each damaged one, by index.
        """
        rows = Rows.empty(self.sizes(places))
        problems: dict[int, str] = {}
        for index, (number, row) in enumerate(map(split_place, places.tolist())):
            problem = self.shards[number].read(row, rows[index])
            if problem is not None:
                problems[index] = problem
                rows[index][:] = 0
        return rows, self.spec.layout.wrong(rows) | problems

    def damaged(self, places: Places) -> dict[int, str]:
        """Check many rows; return what is wrong with each damaged one, by index."""
        found: dict[int, str] = {}
        for start in range(0, len(places), _BATCH):
            _, problems = self.rows(places[start : start + _BATCH])
            found |= {start + index: problem for index, problem in problems.items()}
        return found

    def sound_rows(self, places: Places) -> Rows:
        """Read rows that must be intact.

        Raises:
            DamagedError: If rows are damaged; it names each of them.
        """
        rows, problems = self.rows(places)
        if problems:
            named = {self.id(places[index]): problems[index] for index in sorted(problems)}
            raise DamagedError(self.path, self.spec.layout, named)
        return rows

    def checksums(self, places: Places) -> tuple[list[bytes], list[bytes]]:
        """Return the digest of the passage of each row, and the checksum of its bytes."""
        if not len(places):
            return [], []
        passages, sums = np.empty((2, len(places), SHA_BYTES), np.uint8)
        numbers, rows = split_places(places)
        for number in np.unique(numbers):
            here = numbers == number
            records = self.shards[number].records
            passages[here] = records.passages[rows[here]]
            sums[here] = records.rows[rows[here]]
        return [row.tobytes() for row in passages], [row.tobytes() for row in sums]


def open_view(path: Path, before: View | None = None) -> View:
    """Open the version of a bank that counts now.

    A compaction may delete shards after the manifest was read and before they are opened. Then
    there is a newer manifest, and it is opened instead.

    Args:
        path: The bank's folder.
        before: An earlier version, which is returned if it still counts.

    Raises:
        BankError: If there is no bank, or if it cannot be opened.
    """
    while True:
        manifest = read_bank_manifest(path)[0]
        if before and before.manifest == manifest:
            return before
        try:
            view = View(path, manifest, before)
            if not any(shard.problems for shard in view.shards):
                return view
        except BankError:
            if read_bank_manifest(path)[0] == manifest:
                raise
            continue
        if read_bank_manifest(path)[0] == manifest:
            return view
