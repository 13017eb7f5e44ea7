"""The report of an ablation: its table, its figure, and their data."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbing.storage.files import write_json
from qa.evaluation import pairing
from qa.evaluation.bins import in_bins
from qa.evaluation.run_folder import read_predictions
from qa.tables.bins import bins_page, plot_bins
from qa.tables.side_by_side import SECONDS, TRIGGER_RATE, Evaluated, plot, table
from qa.tables.tables import SCORES, flat

# metric → heading, decimals; a column appears if any cell has its metric
_COLUMNS = {
    **SCORES,
    **{"f1_difference": ("F1 − first", 1), "nll_difference": ("nll − first", 2)},
    **TRIGGER_RATE,
    **{"routed_gold": ("gold routed (%)", 1), "expert_norm": ("‖ΔW‖", 3)},
    **SECONDS,
}
_COMPARED = ("f1", "nll")
RUNS = "runs.json"  # the folder of each cell's evaluation, by its labels joined by "/"


@dataclass(frozen=True)
class Row(Evaluated):
    """A cell that has been evaluated.

    Attributes:
        predictions: The file of the cell's predictions.
    """

    predictions: Path


def write_report(rows: Sequence[Row], folder: Path, bins: int | None = None) -> dict[str, float]:
    """Write ``results.csv``, ``table.md``, ``figure.png``, ``runs.json`` and ``metrics.json``.

    To the metrics of each cell, the `differences` from the first cell are added.

    Args:
        rows: All cells.
        folder: The folder of the files.
        bins: The scores of all cells are also written in this many groups of questions, by how
            uncertain the backbone is in the first cell: ``bins.md`` and ``bins.png``.

    Returns:
        All metrics, with keys of the form ``<label>/…/<metric>``. Those of the groups are
        ``<label>/…/bins/<number>/<metric>``; see `qa.evaluation.bins.in_bins`.

    Raises:
        DataError: If two cells cannot be compared.
    """
    rows = [Row(r.labels, r.metrics | differences(r, rows[0]), r.predictions) for r in rows]
    (folder / "results.csv").write_text(_csv(rows), encoding="utf-8")
    (folder / "table.md").write_text(table(rows, _COLUMNS), encoding="utf-8")
    plot(rows, folder / "figure.png")
    folders = {"/".join(row.labels.values()): row.predictions.parent for row in rows}
    write_json(folder / RUNS, {key: str(path.relative_to(folder)) for key, path in folders.items()})
    metrics = {
        "/".join([*row.labels.values(), name]): value
        for row in rows
        for name, value in row.metrics.items()
    }
    if bins is not None:
        metrics |= _write_bins(rows, folder, bins)
    write_json(folder / "metrics.json", metrics)
    return metrics


def _write_bins(rows: Sequence[Row], folder: Path, bins: int) -> dict[str, float]:
    runs = {"/".join(row.labels.values()): read_predictions(row.predictions) for row in rows}
    first = next(iter(runs))
    grouped = in_bins(runs, first, bins)
    (folder / "bins.md").write_text(bins_page(grouped, first, "mean"), encoding="utf-8")
    plot_bins(grouped, folder / "bins.png")
    return flat({label: {"bins": found} for label, found in grouped.items()})


def differences(row: Row, first: Row) -> dict[str, float]:
    """Compare a cell's scores with those of the first cell, paired by the ids of the questions.

    Returns:
        ``f1_difference`` (points) and ``nll_difference`` (nats): the cell's mean minus the mean of
        the first, each with its 95 % interval (``…_low`` and ``…_high``). Empty for the first cell.

    Raises:
        DataError: If the two cells asked other questions; see `qa.evaluation.pairing.pair`.
    """
    if row is first:
        return {}
    ours, theirs = (read_predictions(each.predictions) for each in (row, first))
    found = pairing.differences(ours, theirs)
    return {
        f"{name}_difference{end}": found[f"{name}{end}"]
        for name in _COMPARED
        for end in ("", "_low", "_high")
        if f"{name}{end}" in found
    }


def _csv(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0].labels, *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row.labels, **row.metrics} for row in rows)
    return text.getvalue()
