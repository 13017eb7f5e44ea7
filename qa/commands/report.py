"""``scripts/report.py``: show evaluations side by side, and how they differ from one of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plumbing.cli import check_complete, say_written, type_shell
from plumbing.mounts import SettingValueError
from plumbing.output import show
from plumbing.settings import check_seed, check_types
from plumbing.storage.files import write_json
from qa.evaluation.run_folder import RunFolder, differences, read_run
from qa.tables.side_by_side import SECONDS, TRIGGER_RATE, Evaluated, plot, table
from qa.tables.tables import SCORES, flat

log = logging.getLogger(__name__)

_COUNT = {"n": ("n", 0)}
_COLUMNS = {**SCORES, **TRIGGER_RATE, **SECONDS, "peak_memory": ("GiB", 2), **_COUNT}


@dataclass(frozen=True)
class ReportSettings:
    """The settings of ``conf/report.yaml``, which says what each of them is.

    Raises:
        SettingValueError: If one has another type, if there is no run, if the numbers of labels and
            of runs differ, if two labels are equal, or if the baseline is none of the labels.
    """

    runs: Sequence[str]
    labels: Sequence[str | int | float] | None
    baseline: str | int | float | None
    seed: int

    def __post_init__(self) -> None:
        check_types(self)
        check_seed(self.seed)
        names = self.names
        if not self.runs or len(names) != len(self.runs):
            raise SettingValueError(
                "labels",
                f"expected at least one run, and one label for each run, got {len(self.runs)} runs "
                f"and {len(names)} labels",
                "set runs=[…] {}=[…]",
            )
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise SettingValueError(
                "labels", f"labels must differ, got {twice[0]!r} twice", "set {}=[…]"
            )
        if self.compared not in names:
            raise SettingValueError(
                "baseline",
                f"baseline must be one of the labels {', '.join(names)}, got {self.compared!r}",
                "set {}=LABEL",
            )

    @property
    def names(self) -> list[str]:
        """The names of the runs: their labels, or else the names of their folders."""
        if self.labels is None:
            return [Path(run).resolve().name for run in self.runs]
        return [str(label) for label in self.labels]

    @property
    def compared(self) -> str:
        """The label of the run that the others are compared with."""
        return self.names[0] if self.baseline is None else str(self.baseline)


def report_command(config: DictConfig) -> dict[str, float]:
    """Compare runs in a table and a figure.

    It writes ``metrics.json``, ``table.md``, ``figure.png`` and, if there are several runs,
    ``differences.md``, which says how each run differs from the baseline.

    Args:
        config: A configuration composed from ``conf/report.yaml``.

    Returns:
        The metrics of all runs as ``<label>/<metric>``, and their differences from the baseline as
        ``<label>/minus/<baseline>/<metric>``; see `qa.evaluation.run_folder.differences`.

    Raises:
        ValueError: If a setting or a run is at fault, or a run cannot be compared.
    """
    check_complete(config)
    given: Any = OmegaConf.to_container(config, resolve=True)
    settings = ReportSettings(*(given[name] for name in ("runs", "labels", "baseline", "seed")))
    pairs = zip(settings.names, settings.runs, strict=True)
    runs = {name: read_run(run) for name, run in pairs}
    compared = settings.compared
    gains = {
        name: differences(run, runs[compared], settings.seed)
        for name, run in runs.items()
        if name != compared
    }
    metrics = flat(
        {
            name: {**run.metrics, "minus": {compared: gains.get(name, {})}}
            for name, run in runs.items()
        }
    )
    folder = Path(config.paths.output_dir)
    write_json(folder / "metrics.json", metrics)
    rows = [_row(name, run) for name, run in runs.items()]
    pages = {"table.md": table(rows, _COLUMNS)}
    if gains:
        pages["differences.md"] = _differences(gains, compared)
    for name, page in pages.items():
        (folder / name).write_text(page, encoding="utf-8")
    plot(rows, folder / "figure.png")
    show("\n".join(pages.values()))
    page = "differences.md" if gains else "table.md"
    say_written(
        {folder: ["metrics.json", *pages, "figure.png"]}, [type_shell("cat", folder / page)]
    )
    return metrics


def _row(name: str, run: RunFolder) -> Evaluated:
    """Make the row of a run, with its memory in GiB."""
    memory = {key: run.metrics[key] / 2**30 for key in ("peak_memory",) if key in run.metrics}
    return Evaluated({"Run": name}, run.metrics | memory)


def _differences(gains: Mapping[str, dict[str, float]], compared: str) -> str:
    """Write a Markdown page with a row for each run that is compared."""
    text = (
        f"How much each run differs from {compared}, question by question, with 95 % bootstrap "
        "intervals over the n\nquestions that both have: EM, F1 and Acc in points, nll in nats an "
        "answer token.\n"
    )
    rows = [Evaluated({"Run": name}, gain) for name, gain in gains.items()]
    return f"{text}\n{table(rows, SCORES | _COUNT)}"
