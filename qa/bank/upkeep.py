"""The upkeep of a bank: compaction and verification.

Compaction replaces many shards that are small or have gaps by a few full ones, and removes files
that no manifest names. Verification compares every byte that counts with its checksum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qa.bank.bank import PassageBank
from qa.bank.card import write_card
from qa.bank.errors import BankError
from qa.bank.locks import cleaning, publishing, writing
from qa.bank.manifest import check_copy, mend, read_bank_manifest
from qa.bank.places import Places, split_places
from qa.bank.publish import SHARD_BYTES, copy_rows, publish_shards
from qa.bank.shard import FOLDER, ShardEntry
from qa.bank.version import View, open_view

log = logging.getLogger(__name__)

_MANY = 64  # a bank with more shards is packed; those who fill a bank add many small ones
_WAIT = 1.0  # seconds for writers to finish, before the files are left to the next compaction


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        shards: How many shards there were before, and how many there are now.
        bytes: How many bytes the folder of the shards took before, and how many it takes now.
        dropped: What was wrong with each damaged row that was left out, by passage id.
        unnamed: How many files that no longer count are still there, because a writer was at work.
    """

    shards: tuple[int, int]
    bytes: tuple[int, int]
    dropped: dict[str, str] = field(default_factory=dict)
    unnamed: int = 0


def compact(
    bank: PassageBank, drop_damaged: bool = False, shard_bytes: int = SHARD_BYTES
) -> Compaction:
    """Write the rows of shards that are small, have gaps or are partly damaged to new shards.

    Full shards stay as they are. Writers and readers can go on meanwhile. Afterwards the disk no
    longer holds what was removed or replaced, nor what killed writers left. A shard is also written
    anew if one copy of its head is damaged, and the manifest if one copy of it is damaged.

    Args:
        bank: The bank, which shows the new version afterwards.
        drop_damaged: Whether to leave out rows whose bytes are damaged.
        shard_bytes: How large a shard may become.

    Raises:
        DamagedError: If a row that has to be moved is damaged and may not be left out.
        BankError: If another process compacted the bank meanwhile, or if the bank was opened for
            reading only.
    """
    bank.check_writable()
    before = _folder_bytes(bank.path)
    with writing(bank.path), publishing(bank.path):
        mend(bank.path)
    view = open_view(bank.path)  # opened again, to see the files as they are now
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


def pack(bank: PassageBank) -> None:
    """Compact a bank that has many shards. If that fails, the error is logged; nothing is lost.

    Args:
        bank: The bank. Afterwards it shows the newest version on disk.
    """
    try:
        bank.refresh()
        if len(bank.view.shards) > _MANY:
            compact(bank)
    except (BankError, OSError) as error:
        log.warning("the bank is left unpacked: %s", error)


def clean(path: Path, wait: float = _WAIT) -> int:
    """Delete the files that the manifest does not name, unless a writer is at work.

    Args:
        path: The bank's folder.
        wait: How many seconds to wait for writers to finish.

    Returns:
        How many of these files are still there.
    """
    try:
        with cleaning(path, wait):
            for file in unnamed_files(path):
                file.unlink(missing_ok=True)
    except BankError:
        return len(list(unnamed_files(path)))
    return 0


def unnamed_files(path: Path) -> Iterator[Path]:
    """Yield the files that do not count.

    Killed writers have left them, writers are at work on them, or newer ones have replaced them.
    """
    named = {entry.name for entry in read_bank_manifest(path)[0].shards}
    yield from (file for file in (path / FOLDER).iterdir() if file.stem not in named)
    yield from path.glob(".*.tmp")


def _plan(view: View, places: Places, shard_bytes: int) -> tuple[list[ShardEntry], Places]:
    """Choose the shards that can stay; return them and the places that are in none of them."""
    numbers, _ = split_places(places)
    sizes = view.sizes(places)
    live = np.bincount(numbers, minlength=len(view.shards))
    whole = [
        not shard.entry.removed
        and live[number] == shard.entry.rows
        and not shard.problems
        and shard.check_copy() is None
        for number, shard in enumerate(view.shards)
    ]
    full = np.bincount(numbers, sizes, minlength=len(whole)) >= shard_bytes / 2  # worth a file
    stays = np.array(whole, bool) & full
    if all(whole) and (~stays).sum() == 1:
        stays[:] = True  # a single small shard has no other to be packed with
    kept = [shard.entry for number, shard in enumerate(view.shards) if stays[number]]
    return kept, places[~stays[numbers]]


def _sound(view: View) -> tuple[Places, dict[str, str]]:
    """Return the places of all intact rows, and what is wrong with the others."""
    places = view.table.places
    damaged = view.damaged(places)
    named = {view.id(places[index]): problem for index, problem in damaged.items()}
    return np.delete(places, list(damaged)), named


def _folder_bytes(path: Path) -> int:
    size = 0
    for file in (path / FOLDER).iterdir():
        with suppress(FileNotFoundError):  # another compaction may be deleting files
            size += file.stat().st_size
    return size


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        kind: What the bank is a bank of.
        rows: How many rows there are.
        damaged: What is wrong with each row whose bytes are damaged, by passage id.
        files: What is wrong with files that have an intact copy. Nothing is lost, and the next
            compaction writes these files again.
        unnamed: Files that do not count, of killed writers or of writers at work. They are no
            damage.
    """

    kind: str
    rows: int
    damaged: dict[str, str]
    files: tuple[str, ...]
    unnamed: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged and not self.files


def verify(path: str | Path) -> Report:
    """Check a whole bank: both manifests, both heads of each shard, and every row.

    Args:
        path: The bank's folder.

    Raises:
        BankError: If the bank is damaged so badly that it cannot be opened.
    """
    path = Path(path)
    while True:
        view = open_view(path)
        files = _file_problems(view)
        # A compaction may delete files while we look at them. Then look at their successors.
        if not files or read_bank_manifest(path)[0] == view.manifest:
            break
    places = view.table.places
    damaged = {view.id(places[index]): problem for index, problem in view.damaged(places).items()}
    unnamed = tuple(sorted(str(file) for file in unnamed_files(path)))
    return Report(view.spec.kind, len(view), damaged, tuple(files), unnamed)


def _file_problems(view: View) -> list[str]:
    problems = [*read_bank_manifest(view.path)[1], *filter(None, [check_copy(view.path)])]
    for shard in view.shards:
        problems += [*shard.problems, *filter(None, [shard.check_copy()])]
        if not shard.records.sound():
            problems.append(f"{shard.paths[0]}: its ids are not those that its keys were made of")
    return list(dict.fromkeys(problems))
