"""``scripts/reproduce.py``: make tables and figures of the papers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmarks.papers.cells import Cell, Place, places
from benchmarks.papers.claims import verdicts
from benchmarks.papers.entries import Entry, read_entry, targets
from benchmarks.papers.pages import write_page, write_what_holds
from benchmarks.papers.results import read_result
from benchmarks.papers.runner import (
    Failure,
    in_order,
    is_done,
    launch_script,
    run_cells,
    with_needs,
)
from benchmarks.papers.tables import FIGURE, METRICS, SHEET, TABLE, Target, write_target
from plumbing.cli import say_written, type_script, type_shell
from plumbing.mounts import SettingValueError
from plumbing.output import show
from plumbing.settings import check_types
from plumbing.storage.folders import only_writer
from qa.tables.tables import markdown_table

log = logging.getLogger(__name__)

ALL, LIST = "all", "list"
CELLS = "cells"  # the folder of all cells, in the command's run folder


@dataclass(frozen=True)
class ReproduceSettings:
    """The settings of ``conf/reproduce.yaml``, which says what each of them is.

    Raises:
        SettingValueError: If one has another type.
    """

    target: str
    data_root: str | None
    docs: str | None
    dry_run: bool

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Plan:
    """A target with the cells of its table.

    Attributes:
        entry: The entry.
        places: All places of the table.
    """

    entry: Entry
    places: Sequence[Place]

    @property
    def cells(self) -> dict[str, Cell]:
        """The cells, with all that they need, by their keys."""
        return with_needs(place.cell for place in self.places if place.cell is not None)


def reproduce(config: DictConfig) -> dict[str, Any]:
    """Run what a target needs, and write its table, figure and metrics.

    Args:
        config: Composed from ``conf/reproduce.yaml``.

    Returns:
        The metrics of each target, by its name; empty with ``dry_run`` and for ``target=list``.

    Raises:
        ValueError: If a setting or an entry is at fault.
        SystemExit: With code 1, after everything else has been done, if a cell has failed.
    """
    given = {name: config[name] for name in ("target", "data_root", "docs", "dry_run")}
    settings = ReproduceSettings(**given)
    size: Any = OmegaConf.to_container(config.size, resolve=True)
    if size["needs_data"] and settings.data_root is None:
        raise SettingValueError(
            "data_root", f"size={size['name']} needs real data", "set {} to their folder"
        )
    folder = Path(config.paths.output_dir)
    root = folder / CELLS
    names = targets() if settings.target in (ALL, LIST) else [settings.target]
    plans = plan(names, OmegaConf.create(size))
    if settings.target == LIST:
        show(_list(plans, root))
        return {}
    cells = {key: cell for each in plans for key, cell in each.cells.items()}
    if settings.dry_run:
        show(_dry_run(cells, root))
        return {}
    with only_writer(root, "folder of cells"):
        launch = partial(launch_script, cache_dir=Path(config.paths.cache_dir).expanduser())
        failures = run_cells(cells, root, launch)
    metrics = _write(plans, folder, settings.docs, size)
    _say(plans, folder, settings.docs)
    if failures:
        show(_failed(failures))
        raise SystemExit(1)
    return metrics


def plan(names: Sequence[str], size: DictConfig) -> list[Plan]:
    """Read entries, and find out what they need.

    Args:
        names: The names of the targets.
        size: The content of ``conf/size``, resolved.

    Raises:
        DataError: If an entry or the size is at fault.
    """
    entries = (read_entry(name, size) for name in names)
    return [Plan(entry, places(entry, size)) for entry in entries]


def _write(plans: Sequence[Plan], folder: Path, docs: str | None, size: Any) -> dict[str, Any]:
    root, found = folder / CELLS, {}
    for each in plans:
        results = [read_result(place, root) for place in each.places]
        judged = verdicts(each.entry, results)
        target = Target(each.entry, size["name"], size["about"], results, judged)
        made = folder / each.entry.target
        found[each.entry.target] = write_target(target, made)
        if docs is not None:
            write_page(target, made, Path(docs))
    if docs is not None:
        write_what_holds(Path(docs))
    return found


def _say(plans: Sequence[Plan], folder: Path, docs: str | None) -> None:
    files = [TABLE, SHEET, FIGURE, METRICS]
    written: dict[str | Path, list[str]] = {folder / each.entry.target: files for each in plans}
    if docs is not None:
        written[docs] = []
    following = type_shell("cat", folder / plans[0].entry.target / TABLE)
    say_written(written, [following])


def _failed(failures: Sequence[Failure]) -> str:
    lines = [f"{len(failures)} cells failed, and are empty in the tables:"]
    again = type_script("reproduce", ["target=…", "size=…"])
    return "\n".join([*lines, *map(str, failures), f"{again} tries them again."])


def _list(plans: Sequence[Plan], root: Path) -> str:
    rows = []
    for each in plans:
        cells = each.cells
        done = sum(is_done(cell, root) for cell in cells.values())
        minutes = _minutes(cells, root)
        rows.append([each.entry.target, each.entry.title, f"{done} of {len(cells)}", minutes])
    return markdown_table(rows, ["target", "what it shows", "cells done", "minutes left"], labels=2)


def _dry_run(cells: Mapping[str, Cell], root: Path) -> str:
    rows = []
    for cell in in_order(cells):
        state = "done" if is_done(cell, root) else "to run"
        minutes = "" if cell.minutes is None else f"{cell.minutes:g}"
        rows.append([cell.folder_name, state, minutes, " ".join([cell.script, *cell.words])])
    table = markdown_table(rows, ["cell", "state", "minutes", "command"], labels=2)
    return f"{table}\nMinutes left, an estimate: {_minutes(cells, root)}"


def _minutes(cells: Mapping[str, Cell], root: Path) -> str:
    """The estimated minutes of the cells that are not done."""
    left = [cell.minutes for cell in cells.values() if not is_done(cell, root)]
    known = [minutes for minutes in left if minutes is not None]
    if left and not known:
        return "unknown"
    more = f", and {len(left) - len(known)} cells without an estimate" if known != left else ""
    return f"{sum(known):.0f}{more}"
