"""Verification: every byte that counts, against its checksum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmoe.bank.compaction import unnamed_files
from dmoe.bank.manifest import check_copy, read_manifest
from dmoe.bank.view import View, open_view


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
