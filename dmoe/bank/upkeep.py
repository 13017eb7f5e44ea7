"""The upkeep of a bank: compaction, and verification.

Compaction puts few full shards in the place of many small or holey ones, and removes files that no
manifest names. Verification compares every byte that counts with its checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dmoe.bank.bank import Bank
from dmoe.bank.card import write_card
from dmoe.bank.errors import BankError
from dmoe.bank.locks import cleaning, publishing, writing
from dmoe.bank.manifest import check_copy, mend, read_manifest
from dmoe.bank.places import Places, split_places
from dmoe.bank.publish import SHARD_BYTES, copy_rows, publish_shards
from dmoe.bank.shard import FOLDER, ShardEntry
from dmoe.bank.version import View, open_view

_WAIT = 1.0  # seconds for writers to finish, before deleting is left to the next time


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        shards: How many shards there were, and how many there are.
        bytes: What the shards' folder took, and what it takes.
        dropped: The damaged experts that were left behind, and what was wrong with each.
        unnamed: Files left that count no more, because a writer was at work all the time.
    """

    shards: tuple[int, int]
    bytes: tuple[int, int]
    dropped: dict[str, str] = field(default_factory=dict)
    unnamed: int = 0


def compact(bank: Bank, drop_damaged: bool = False, shard_bytes: int = SHARD_BYTES) -> Compaction:
    """Pack what is left of small, holey and half damaged shards anew; leave full ones alone.

    Writers and readers go on meanwhile. What was removed or replaced is gone from the disk
    afterwards, and so is what killed writers left. A shard is written anew, too, when one copy of
    its head is damaged, and the manifest when one copy of it is.

    Args:
        bank: The bank; it shows the new version afterwards.
        drop_damaged: Whether to leave out experts whose weights are damaged.
        shard_bytes: How large a shard may become.

    Raises:
        DamagedExpertError: If an expert that has to be moved is damaged, and may not be dropped.
        BankError: If another process compacted the bank meanwhile, or it is for reading only.
    """
    bank.check_writable()
    before = _folder_bytes(bank.path)
    with writing(bank.path), publishing(bank.path):
        mend(bank.path)
    view = open_view(bank.path)  # anew, for the files as they are now
    places, dropped = _sound(view) if drop_damaged else (view.table.places, {})
    kept, places = _plan(view, places, shard_bytes)
    if len(kept) < len(view.shards):
        bank.view = publish_shards(
            view, lambda: copy_rows(bank.path, view, places, shard_bytes), kept=kept
        )
    else:
        bank.view = view
    unnamed = clean(bank.path)
    write_card(bank.view)
    shards = len(view.shards), len(bank.view.shards)
    return Compaction(shards, (before, _folder_bytes(bank.path)), dropped, unnamed)


def clean(path: Path, wait: float = _WAIT) -> int:
    """Delete the files that the manifest does not name, unless a writer is at work.

    Args:
        path: The bank's folder.
        wait: How many seconds to wait for writers.

    Returns:
        How many files had to be left.
    """
    try:
        with cleaning(path, wait):
            for file in unnamed_files(path):
                file.unlink(missing_ok=True)
    except BankError:
        return len(list(unnamed_files(path)))
    return 0


def unnamed_files(path: Path) -> Iterator[Path]:
    """Files that do not count: of killed writers, of writers at work, or superseded."""
    named = {entry.name for entry in read_manifest(path)[0].shards}
    yield from (file for file in (path / FOLDER).iterdir() if file.stem not in named)
    yield from path.glob(".*.tmp")


def _plan(view: View, places: Places, shard_bytes: int) -> tuple[list[ShardEntry], Places]:
    """The shards that can stay, and which of the places are in none of these."""
    numbers, _ = split_places(places)
    live = np.bincount(numbers, minlength=len(view.shards))
    whole = [
        not shard.entry.removed
        and live[number] == shard.entry.rows
        and not shard.problems
        and shard.check_copy() is None
        for number, shard in enumerate(view.shards)
    ]
    enough = shard_bytes / 2 / view.spec.layout.row_bytes  # rows of a shard that is worth its file
    stays = np.array([ok and live[number] >= enough for number, ok in enumerate(whole)], bool)
    if all(whole) and (~stays).sum() == 1:
        stays[:] = True  # a single small one has no other to be packed with
    kept = [shard.entry for number, shard in enumerate(view.shards) if stays[number]]
    return kept, places[~stays[numbers]]


def _sound(view: View) -> tuple[Places, dict[str, str]]:
    """The places of all experts that are not damaged, and what is wrong with the others."""
    places = view.table.places
    damaged = view.damaged(places)
    named = {view.id(places[index]): problem for index, problem in damaged.items()}
    return np.delete(places, list(damaged)), named


def _folder_bytes(path: Path) -> int:
    size = 0
    for file in (path / FOLDER).iterdir():
        with suppress(FileNotFoundError):  # a compaction at work beside this one deletes files
            size += file.stat().st_size
    return size


@dataclass(frozen=True)
class Report:
    """What verification found.

    Attributes:
        experts: How many there are.
        damaged: What is wrong with each expert whose weights are damaged, by passage id.
        files: What is wrong with files of which another copy is intact: all is served, and the next
            compaction writes them anew.
        unnamed: Files that do not count, of killed writers or of writers at work; no damage.
    """

    experts: int
    damaged: dict[str, str]
    files: tuple[str, ...]
    unnamed: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged and not self.files


def verify(path: str | Path) -> Report:
    """Check all of a bank: both manifests, both heads of each shard, and every expert.

    Raises:
        BankError: If it is damaged so far that it cannot be opened.
    """
    path = Path(path)
    while True:
        view = open_view(path)
        files = _file_problems(view)
        # Under a compaction files may go while we look; then look at those in their place.
        if not files or read_manifest(path)[0] == view.manifest:
            break
    places = view.table.places
    damaged = {view.id(places[index]): problem for index, problem in view.damaged(places).items()}
    unnamed = tuple(sorted(str(file) for file in unnamed_files(path)))
    return Report(len(view), damaged, tuple(files), unnamed)


def _file_problems(view: View) -> list[str]:
    problems = [*read_manifest(view.path)[1], *filter(None, [check_copy(view.path)])]
    for shard in view.shards:
        problems += [*shard.problems, *filter(None, [shard.check_copy()])]
        if not shard.records.sound():
            problems.append(f"{shard.paths[0]}: its ids are not those that its keys were made of")
    return list(dict.fromkeys(problems))
