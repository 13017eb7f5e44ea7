"""One version of a bank as a reader sees it. It stays the same until the reader looks again.

Shapes: N experts, P parameters of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qa.bank.errors import BankError, DamagedExpertError, shown
from dmoe.bank.layout import poisoned
from qa.bank.manifest import BankSpec, Manifest, read_bank_manifest
from qa.bank.places import ABSENT, Places, PlaceTable, split_place, split_places
from qa.bank.records import SHA_BYTES, keys_of
from qa.bank.shard import Shard

_BATCH = 256  # how many experts are in memory at a time
_POISONED = "it holds a NaN, an infinity, or a number that no LoRA weight can be"


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
        table: Says where each expert is.

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
    def spec(self) -> BankSpec:
        """What all experts of the bank have in common."""
        return self.manifest.spec

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and int(self.table.find(keys_of([id]))[0]) != ABSENT

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[str]:
        return (self.id(place) for place in self.table.places.tolist())

    def id(self, place: int) -> str:
        """Return the passage id of the expert at a place."""
        shard, row = split_place(place)
        return self.shards[shard].records.id(row)

    def places(self, ids: Sequence[str]) -> Places:
        """Look up the places ``[N]`` of experts by passage id.

        Raises:
            BankError: If a passage has no expert; the message names its id.
        """
        if isinstance(ids, str):
            raise BankError(f"expected a list of passage ids, got the string {shown(ids)}")
        places = self.table.find(keys_of(ids))
        absent = np.flatnonzero(places == ABSENT)
        if len(absent):
            raise BankError(
                f"{self.path}: no expert of passage {shown(ids[absent[0]])} (nor of "
                f"{len(absent) - 1} more of the {len(ids)} asked for); ask only for ids that are "
                "in the bank, or build it (scripts/build_experts.py)"
            )
        return places

    def rows(self, places: Places) -> tuple[Tensor, dict[int, str]]:
        """Read and check experts.

        Args:
            places: The places ``[N]`` of the experts.

        Returns:
            A copy of their rows ``[N, P]``, and what is wrong with each damaged one, by index.
        """
        layout = self.spec.layout
        rows = torch.empty(len(places), layout.numel, dtype=layout.torch_dtype)
        raw = rows.view(torch.uint8).numpy()
        problems: dict[int, str] = {}
        for index, (number, row) in enumerate(map(split_place, places.tolist())):
            problem = self.shards[number].read(row, raw[index])
            if problem is not None:
                problems[index] = problem
                raw[index] = 0
        for index in poisoned(rows).nonzero().flatten().tolist():
            problems[index] = _POISONED
        return rows, problems

    def damaged(self, places: Places) -> dict[int, str]:
        """Check many experts; return what is wrong with each damaged one, by index."""
        found: dict[int, str] = {}
        for start in range(0, len(places), _BATCH):
            _, problems = self.rows(places[start : start + _BATCH])
            found |= {start + index: problem for index, problem in problems.items()}
        return found

    def sound_rows(self, places: Places) -> Tensor:
        """Read experts that must be intact, as rows ``[N, P]``.

        Raises:
            DamagedExpertError: If experts are damaged; it names each of them.
        """
        rows, problems = self.rows(places)
        if problems:
            named = {self.id(places[index]): problem for index, problem in problems.items()}
            raise DamagedExpertError(self.path, named)
        return rows

    def checksums(self, places: Places) -> tuple[list[bytes], list[bytes]]:
        """Return the SHA-256 of the passage of each expert, and that of its weights."""
        if not len(places):
            return [], []
        passages, weights = np.empty((2, len(places), SHA_BYTES), np.uint8)
        numbers, rows = split_places(places)
        for number in np.unique(numbers):
            here = numbers == number
            records = self.shards[number].records
            passages[here] = records.passages[rows[here]]
            weights[here] = records.weights[rows[here]]
        return [row.tobytes() for row in passages], [row.tobytes() for row in weights]


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
