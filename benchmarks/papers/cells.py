"""The cells of an entry: commands of this project, and what each needs before it.

A word of a command may hold these references:

* ``<part>``: the folder of a part, which is a cell as well.
* ``<part#metric>``: the value of a metric of that cell, divided by 100: percent as a share.
* ``<self>``: the cell's own folder.

A word that is nothing but ``<part>`` asks for the part to be there, and is left out of the command.
Of two words for one setting the last one counts, and the command has it alone.

A cell's key is a hash of all that decides its result: the script, its overrides, the keys of what
it needs, the content of the data that it names, and the prompt. Cells with equal keys are one cell,
whichever target they belong to. The code decides results as well; the commit is recorded in each
cell, and is no part of the key, since else every commit would ask for everything anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmarks.papers.entries import OWN, Entry, Option, flat_list
from dmoe.ablation.key import FILES, settings_key
from plumbing.storage import hashing
from plumbing.storage.jsonl import DataError
from qa.prompts import prompt_template

SELF = "self"

_REFERENCE = re.compile(r"<([a-z]\w*)(?:#([^>]+))?>")
_BARE = re.compile(r"<[a-z]\w*>")


@dataclass(frozen=True)
class Cell:
    """A command of this project with its overrides.

    Attributes:
        name: What messages call it.
        script: The name of the script, such as ``evaluate``.
        words: Its overrides, with references.
        needs: The cells that the references name.
        key: 16 hexadecimal digits.
        minutes: How long it takes, an estimate; None if there is none.
    """

    name: str
    script: str
    words: tuple[str, ...]
    needs: Mapping[str, Cell] = field(default_factory=dict)
    key: str = ""
    minutes: float | None = None

    @property
    def folder_name(self) -> str:
        """The name of its folder, below that of all cells."""
        return f"{self.script}-{self.key}"

    def all_needs(self) -> Iterator[Cell]:
        """Everything that it needs, directly or not; some may come twice."""
        for cell in self.needs.values():
            yield from cell.all_needs()
            yield cell


@dataclass(frozen=True)
class Place:
    """A place of a table.

    Attributes:
        options: The option of each axis.
        cell: The cell that fills it; None if this size has none.
    """

    options: Mapping[str, Option]
    cell: Cell | None

    @property
    def labels(self) -> dict[str, str]:
        """The label of each axis."""
        return {axis: option.label for axis, option in self.options.items()}

    def metric(self, name: str) -> str:
        """The name of a metric in the cell's ``metrics.json``."""
        for axis, option in self.options.items():
            name = name.replace(f"{{{axis}}}", option.word)
        return name


def places(entry: Entry, size: DictConfig) -> list[Place]:
    """All places of an entry's table, with their cells.

    Raises:
        DataError: If a cell names a part that the size does not have, or parts need each other.
    """
    parts: Any = OmegaConf.to_container(size.parts, resolve=True)
    costs: Any = OmegaConf.to_container(size.minutes, resolve=True)
    maker = _Maker(entry.target, parts, costs)
    found = []
    for options in entry.places():
        cell = None
        if all(option.overrides is not None for option in options.values()):
            own = [word for option in options.values() for word in _of(option, OWN)]
            name = " ".join([entry.target, *(option.label for option in options.values())])
            cell = maker.cell(name, entry.script, [*entry.overrides, *own], options)
        found.append(Place(options, cell))
    return found


@dataclass(frozen=True)
class _Maker:
    """Makes the cells of an entry."""

    target: str
    parts: Mapping[str, Any]
    costs: Mapping[str, float]

    def cell(
        self,
        name: str,
        script: str,
        words: Sequence[str],
        options: Mapping[str, Option],
        inside: tuple[str, ...] = (),
    ) -> Cell:
        words = last_words(words)
        named = {part for word in words for part, _ in _REFERENCE.findall(word)} - {SELF}
        needs = {part: self.part(part, options, inside) for part in sorted(named)}
        own = key_of(script, words, needs)
        return Cell(name, script, tuple(words), needs, own, minutes_of(script, words, self.costs))

    def part(self, name: str, options: Mapping[str, Option], inside: tuple[str, ...]) -> Cell:
        if name in inside:
            raise DataError(f"the parts {' and '.join(inside)} need each other; correct conf/size")
        if name not in self.parts:
            raise DataError(
                f"{self.target} needs the part {name!r}, and the size has only "
                f"{', '.join(self.parts)}; add it to conf/size"
            )
        raw = self.parts[name]
        if missing := [axis for axis in raw.get("takes", []) if axis not in options]:
            raise DataError(f"{self.target} needs the axis {missing[0]} for its part {name!r}")
        words = [
            *flat_list(raw.get("overrides", [])),
            *(word for axis in raw.get("takes", []) for word in _of(options[axis], OWN)),
            *(word for option in options.values() for word in _of(option, name)),
        ]
        return self.cell(name, raw["script"], words, options, (*inside, name))


def _of(option: Option, name: str) -> Sequence[str]:
    return (option.overrides or {}).get(name, ())


def last_words(words: Iterable[str]) -> list[str]:
    """Overrides of which the last one for each setting counts, each setting once."""
    return list({word.partition("=")[0]: word for word in words}.values())


def key_of(script: str, words: Sequence[str], needs: Mapping[str, Cell]) -> str:
    """The key of a cell.

    Args:
        script: The name of its script.
        words: Its overrides, with references.
        needs: The cells that the references name.
    """

    def by_key(found: re.Match[str]) -> str:
        part, metric = found.groups()
        return found[0] if part == SELF else f"<{needs[part].key}#{metric or ''}>"

    words = last_words(words)
    named: DictConfig = OmegaConf.create({})
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key in FILES and not _REFERENCE.search(value):
            OmegaConf.update(named, key, value)
    contents = settings_key(named, [str(key) for key in named], prompt_template())
    said = sorted(_REFERENCE.sub(by_key, word) for word in words)
    return hashing.digest([script, said, contents])[:16]


def minutes_of(script: str, words: Sequence[str], costs: Mapping[str, float]) -> float | None:
    """The estimate of a cell's minutes.

    Args:
        script: The name of its script.
        words: Its overrides.
        costs: Minutes by some words of a command, such as ``evaluate rag=true``. The entry with
            the most words counts of those whose words all stand in the command; of several the
            last one.
    """
    there = {script, *words}
    fitting = [
        (len(words), place, minutes)
        for place, (text, minutes) in enumerate(costs.items())
        if there.issuperset(words := text.split())
    ]
    return max(fitting)[2] if fitting else None


def filled(cell: Cell, root: Path, metrics: Mapping[str, Any]) -> list[str]:
    """The words of a cell's command, with their references replaced.

    Args:
        cell: The cell.
        root: The folder of all cells.
        metrics: The metrics of the cells that it needs, by the name of the part.

    Raises:
        LookupError: If a metric is not among them.
    """

    def value(found: re.Match[str]) -> str:
        part, metric = found.groups()
        if part == SELF:
            return str(root / cell.folder_name)
        if metric is None:
            return str(root / cell.needs[part].folder_name)
        return repr(float(metrics[part][metric]) / 100)

    words = (word for word in cell.words if not _BARE.fullmatch(word))
    return [_REFERENCE.sub(value, word) for word in words]
