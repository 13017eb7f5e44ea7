"""What a finished cell has measured, and what it was measured with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from benchmarks.papers.cells import Cell, Place, last_words
from benchmarks.papers.entries import Metric
from benchmarks.papers.runner import RECORD, is_done, read_metrics
from dmoe.ablation.report import RUNS
from plumbing.cli.closing import type_script
from plumbing.cli.values import shown
from plumbing.storage import hashing
from plumbing.storage.files import sha256_of
from plumbing.storage.jsonl import read_jsonl
from plumbing.storage.manifest import MANIFEST
from qa.evaluation.evaluate import MADE_WITH

PREDICTIONS = "predictions.jsonl"
_ENDS = ("", "_low", "_high")
_SEEDS = ("seed", "sample_seed", "data.seed")
_ASKED = ("id", "question", "answers", "gold_ids")


@dataclass(frozen=True)
class Result:
    """A place of a table with what was measured there.

    Attributes:
        place: The place.
        folder: The folder of its cell; None if there is no cell, or if it has no result.
        metrics: All metrics of the cell, by their names there.
        record: The cell's ``cell.json``.
    """

    place: Place
    folder: Path | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def values(self, metric: Metric) -> dict[str, float]:
        """A metric as the table shows it: value, ``low`` and ``high``; empty if there is none."""
        name = self.place.metric(metric.name)
        found = {end.lstrip("_") or "value": self.metrics.get(f"{name}{end}") for end in _ENDS}
        numbers = {end: value for end, value in found.items() if isinstance(value, int | float)}
        return {end: value * metric.scale for end, value in numbers.items()}

    @property
    def n(self) -> float | None:
        """The number of questions."""
        return self.metrics.get("n")

    def predictions(self, metric: str) -> Path | None:
        """The answers behind a metric of the cell; None if the cell has kept none.

        A cell of several evaluations has metrics ``<evaluation>/em``, and a folder for each.
        """
        if self.folder is None:
            return None
        prefix = self.place.metric(metric).rpartition("/")[0]
        runs = self.folder / RUNS
        named = json.loads(runs.read_text("utf-8")) if runs.is_file() else {}
        folders = [named.get(prefix, prefix), f"cells/{prefix}"]
        paths = (self.folder / folder / PREDICTIONS for folder in folders)
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The command, the commit and the seeds of the cell, and hashes of what it was made with.

        It is empty if there is no cell, or if it has no result.
        """
        if self.folder is None or self.place.cell is None:
            return {}
        cells = self.folder.parent  # paths are written as one would type them where this runs
        words = last_words(self.record["overrides"])
        overrides = [word.replace(str(cells), shown(cells)) for word in words]
        seeds = dict(word.split("=", 1) for word in overrides if word.partition("=")[0] in _SEEDS)
        return {
            "command": type_script(self.record["script"], overrides),
            "commit": self.record["commit"],
            "seconds": self.record["seconds"],
            "n": self.n,
            "seeds": {name: int(seeds.get(name, 0)) for name in _SEEDS[:1]} | seeds,
            "hashes": {
                **_model(self.folder),
                **_data(self.folder / PREDICTIONS),
                **_made(self.place.cell, cells),
            },
        }


def read_result(place: Place, root: Path) -> Result:
    """Read what the cell of a place has measured, if it has.

    Args:
        place: The place.
        root: The folder of all cells.
    """
    if place.cell is None or not is_done(place.cell, root):
        return Result(place, None)
    folder = root / place.cell.folder_name
    record = json.loads((folder / RECORD).read_text("utf-8"))
    return Result(place, folder, read_metrics(folder), record)


def _model(folder: Path) -> dict[str, str]:
    """The fingerprint of the backbone, as the run wrote it."""
    path = folder / MADE_WITH
    if not path.is_file():
        return {}
    return {"model": json.loads(path.read_text("utf-8"))["fingerprint"]}


def _data(predictions: Path) -> dict[str, str]:
    """The hash of the questions that were asked, with their answers and gold passages."""
    if not predictions.is_file():
        return {}
    asked = [{key: row.get(key) for key in _ASKED} for _, row in read_jsonl(predictions)]
    return {"questions": hashing.digest(asked)}


def _made(cell: Cell, root: Path) -> dict[str, str]:
    """The hashes of the checkpoints, indexes and banks among what a cell needs."""
    found = {}
    for part, need in cell.needs.items():
        folder = root / need.folder_name
        known = (MANIFEST, "index/" + MANIFEST, "bank/" + MANIFEST, "checkpoints/last.ckpt")
        files = (*known, "adapter/adapter_model.safetensors", "reranker/" + MANIFEST)
        there = [folder / name for name in files if (folder / name).is_file()]
        if there:
            changed = there[0].stat()
            found[part] = _sha256_of(there[0], changed.st_size, changed.st_mtime_ns)
    return found


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    """The hash of a file that many cells need, such as a checkpoint; it is read once."""
    return sha256_of(path)
