"""A table of where the row of each passage is. The newest shard that holds an id wins.

Shapes: N ids that are looked up, S ids that are sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qa.bank.records import KEY_BYTES, Records

Keys: TypeAlias = npt.NDArray[np.uint64]
Places: TypeAlias = npt.NDArray[np.int64]

ABSENT = -1  # the place of an id that was never added, or that was removed
_ROW_BITS = 32
_FEW = 4096  # ids are sorted into the others when at least this many are collected


class PlaceTable:
    """An immutable map from the key of an id to the place of its row.

    A place is the number of a shard and a row in it. Nearly all keys stand in sorted arrays, where
    each takes 24 bytes with its place. The newest keys stand in a dict, which is sorted into the
    arrays once it has grown to an eighth of them. So the cost of adding rows depends on how many
    are added and not on how many there are.
    """

    def __init__(self, sorted_: _Sorted | None = None, recent: Mapping[bytes, int] = {}) -> None:
        none = np.empty(0, np.uint64)
        self._sorted = sorted_ or _Sorted(none, none, np.empty(0, np.int64))
        self._recent = recent

    def extended(self, shards: Sequence[tuple[int, Records, bool]]) -> PlaceTable:
        """Make a table with more shards, each of which overrides those before it.

        Args:
            shards: For each shard its number, its records, and whether it removes these ids.
        """
        keys = [records.keys for _, records, _ in shards]
        places = [_places(number, len(records), removed) for number, records, removed in shards]
        if len(self._recent) + sum(map(len, keys)) <= max(_FEW, len(self._sorted.places) // 8):
            recent = dict(self._recent)
            for some, where in zip(keys, places, strict=True):
                recent.update(zip(_as_bytes(some), where.tolist(), strict=True))
            return PlaceTable(self._sorted, recent)
        return PlaceTable(self._folded.updated(keys, places))

    def find(self, keys: Keys) -> Places:
        """Look up keys ``[N, 2]``; return their places ``[N]``, ``ABSENT`` for unknown ones."""
        places = self._sorted.find(keys)
        if self._recent:
            for index, key in enumerate(_as_bytes(keys)):
                places[index] = self._recent.get(key, places[index])
        return places

    def __len__(self) -> int:
        return len(self._folded.places)

    @property
    def places(self) -> Places:
        """The places of all rows, in the order of the shards and of the rows in them."""
        return np.sort(self._folded.places)

    @cached_property
    def _folded(self) -> _Sorted:
        if not self._recent:
            return self._sorted
        keys, places = b"".join(self._recent), list(self._recent.values())
        return self._sorted.updated([_as_keys(keys)], [np.array(places, np.int64)])


def split_place(place: int) -> tuple[int, int]:
    """Split a place other than ``ABSENT`` into the numbers of the shard and of the row in it."""
    return divmod(int(place), 1 << _ROW_BITS)


def split_places(places: Places) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split many places into the numbers of the shards and of the rows, ``[N]`` each."""
    return places >> _ROW_BITS, places & ((1 << _ROW_BITS) - 1)


@dataclass(frozen=True)
class _Sorted:
    """Distinct keys, sorted, as their two halves ``[S]``, and the places ``[S]`` of the rows."""

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    places: Places

    def find(self, keys: Keys) -> Places:
        if not len(self.places):
            return np.full(len(keys), ABSENT, np.int64)
        high, low = keys[:, 0], keys[:, 1]
        last = len(self.places) - 1
        at = np.minimum(np.searchsorted(self.high, high), last)
        # Step over keys that share only their first half. There are none by chance.
        while ((self.high[at] == high) & (self.low[at] < low) & (at < last)).any():
            at += (self.high[at] == high) & (self.low[at] < low) & (at < last)
        found = (self.high[at] == high) & (self.low[at] == low)
        return np.where(found, self.places[at], ABSENT)

    def updated(self, keys: Iterable[Keys], places: Iterable[Places]) -> _Sorted:
        """Add keys. The last place of each key counts, and keys that become ``ABSENT`` go."""
        more = np.concatenate([*keys, np.empty((0, 2), np.uint64)])
        high = np.concatenate([self.high, more[:, 0]])
        low = np.concatenate([self.low, more[:, 1]])
        place = np.concatenate([self.places, *places])
        # The sort is stable, so the newest of equal keys comes last.
        order = np.lexsort((low, high))
        high, low, place = high[order], low[order], place[order]
        keep = np.ones(len(place), bool)
        keep[:-1] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        keep &= place != ABSENT
        return _Sorted(high[keep], low[keep], place[keep])


def _places(number: int, rows: int, removed: bool) -> Places:
    if removed:
        return np.full(rows, ABSENT, np.int64)
    return (number << _ROW_BITS) + np.arange(rows, dtype=np.int64)


def _as_bytes(keys: Keys) -> list[bytes]:
    raw = keys.tobytes()
    return [raw[start : start + KEY_BYTES] for start in range(0, len(raw), KEY_BYTES)]


def _as_keys(raw: bytes) -> Keys:
    return np.frombuffer(raw, np.uint64).reshape(-1, 2)
