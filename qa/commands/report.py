"""``scripts/report.py``: show evaluations side by side, and how they differ from one of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plumbing.cli import check_complete, say_written, type_shell
from plumbing.mounts import SettingValueError
from plumbing.output import show
from plumbing.settings import check_choice, check_seed, check_types
from plumbing.storage.files import write_json
from qa.evaluation.bins import MADE_OF, in_bins
from qa.evaluation.evaluate import LARGEST
from qa.evaluation.groups import by_group, groups_page, read_groups
from qa.evaluation.pairing import average, differences
from qa.evaluation.run_folder import RunFolder, read_run
from qa.statistics import over_runs
from qa.tables.bins import bins_page, plot_bins
from qa.tables.side_by_side import SECONDS, TRIGGER_RATE, Evaluated, plot, table
from qa.tables.tables import SCORES, flat, markdown_table, with_interval

log = logging.getLogger(__name__)

QUESTIONS = ("same", "common")
_COUNT = {"n": ("n", 0), "clusters": ("clusters", 0)}
_COLUMNS = {**SCORES, **TRIGGER_RATE, **SECONDS, "peak_memory": ("GiB", 2), **_COUNT}


@dataclass(frozen=True)
class ReportSettings:
    """The settings of ``conf/report.yaml``, which says what each of them is.

    Raises:
        SettingValueError: If one has another type, if there is no run, if the numbers of labels and
            of runs differ, if two labels or two runs of a list are equal, or if the baseline is
            none of the labels.
    """

    runs: Sequence[str | Sequence[str]]
    labels: Sequence[str | int | float] | None
    baseline: str | int | float | None
    questions: str
    seed: int
    groups: str | None = None
    bins: int | None = None
    uncertainty: str = "mean"

    def __post_init__(self) -> None:
        check_types(self)
        check_seed(self.seed)
        check_choice("questions", self.questions, QUESTIONS)
        check_choice("uncertainty", self.uncertainty, tuple(MADE_OF))
        for folders in self.folders:
            if not folders or len({Path(folder).resolve() for folder in folders}) < len(folders):
                raise SettingValueError(
                    "runs",
                    "a list of runs that differ in their seed must name each run once, got "
                    f"[{', '.join(folders)}]",
                    "set {}=[RUN,[RUN,RUN]]",
                )
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
    def folders(self) -> list[list[str]]:
        """The run folders of each row: one, or several that differ in their seed."""
        return [[run] if isinstance(run, str) else list(run) for run in self.runs]

    @property
    def names(self) -> list[str]:
        """The names of the rows: their labels, or else the names of their folders."""
        if self.labels is None:
            return ["+".join(Path(run).resolve().name for run in row) for row in self.folders]
        return [str(label) for label in self.labels]

    @property
    def compared(self) -> str:
        """The label of the run that the others are compared with."""
        return self.names[0] if self.baseline is None else str(self.baseline)


def report_command(config: DictConfig) -> dict[str, float]:
    """Compare runs in a table and a figure.

    It writes ``metrics.json``, ``table.md`` and ``figure.png``. If there are several rows, there is
    also ``differences.md``, which says how each differs from the baseline; and if a row has several
    runs, there is ``seeds.md``, which says how these differ. With ``bins`` there are ``bins.md``
    and ``bins.png``, which have the scores of all rows by how uncertain the baseline is. With
    ``groups`` there is ``groups.md``, which has all of this for each named group apart.

    Args:
        config: A configuration composed from ``conf/report.yaml``.

    Returns:
        The metrics of all rows as ``<label>/<metric>``, and their differences from the baseline as
        ``<label>/minus/<baseline>/<metric>``; see `qa.evaluation.pairing.differences`. The
        intervals are computed anew, those of old runs as well. A row of several runs also has
        `over_seeds`, as ``<label>/seeds/<metric>``. With ``bins`` there are also the metrics of
        `qa.evaluation.bins.binned`, as ``<label>/bins/<number from 1>/<metric>``, and of
        `qa.evaluation.bins.alignment`, as ``<label>/bins/<metric>``. With ``groups`` every row has
        `by_group`, as ``<label>/groups/<group>/<metric>``.

    Raises:
        ValueError: If a setting or a run is at fault, or a run cannot be compared.
    """
    check_complete(config)
    given: Any = OmegaConf.to_container(config, resolve=True)
    names = {one.name for one in fields(ReportSettings)} & given.keys()
    settings = ReportSettings(**{name: given[name] for name in names})
    groups = {
        name: [read_run(folder) for folder in folders]
        for name, folders in zip(settings.names, settings.folders, strict=True)
    }
    runs = {name: _row_of(group, settings.seed) for name, group in groups.items()}
    seeds = {name: over_seeds(group) for name, group in groups.items() if len(group) > 1}
    compared, common = settings.compared, settings.questions == "common"
    gains = {
        name: differences(run, runs[compared], settings.seed, common)
        for name, run in runs.items()
        if name != compared
    }
    grouped = in_bins(runs, compared, settings.bins, settings.uncertainty, settings.seed)
    apart = (
        {}
        if settings.groups is None
        else by_group(runs, read_groups(settings.groups), compared, settings.seed, common)
    )
    metrics = flat(
        {
            name: {
                **run.metrics,
                "seeds": seeds.get(name, {}),
                "bins": grouped.get(name, {}),
                "minus": {compared: gains.get(name, {})},
                "groups": {group: rows.get(name, {}) for group, rows in apart.items()},
            }
            for name, run in runs.items()
        }
    )
    folder = Path(config.paths.output_dir)
    write_json(folder / "metrics.json", metrics)
    rows = [_row(name, run) for name, run in runs.items()]
    pages = {"table.md": table(rows, _COLUMNS)}
    if unknown := [name for name, run in runs.items() if not run.is_clustered]:
        pages["table.md"] += (
            "\nThese runs do not say which gold passages their questions have, so that each "
            f"question counts as a\ncluster of its own: {', '.join(unknown)}. Evaluate again for "
            "wider and truer intervals.\n"
        )
    if seeds:
        pages["seeds.md"] = _seeds(seeds)
    if grouped:
        pages["bins.md"] = bins_page(grouped, compared, settings.uncertainty)
        plot_bins(grouped, folder / "bins.png")
    if gains:
        pages["differences.md"] = _differences(gains, compared, common)
    if apart:
        pages["groups.md"] = groups_page(apart, compared)
    for name, page in pages.items():
        (folder / name).write_text(page, encoding="utf-8")
    plot(rows, folder / "figure.png")
    show("\n".join(pages.values()))
    page = "differences.md" if gains else "table.md"
    figures = ["figure.png", *(["bins.png"] if grouped else [])]
    say_written({folder: ["metrics.json", *pages, *figures]}, [type_shell("cat", folder / page)])
    return metrics


def over_seeds(runs: Sequence[RunFolder]) -> dict[str, float]:
    """Compare runs of one configuration that differ in their seed.

    Returns:
        ``n``, the number of runs. For each score that all of them have, ``<name>``, the mean over
        runs; ``<name>_low`` and ``<name>_high``, the ends of its 95 % t interval; and
        ``<name>_least`` and ``<name>_most``, the lowest and the highest run.
    """
    found: dict[str, float] = {"n": len(runs)}
    for name in SCORES:
        if all(name in run.metrics for run in runs):
            values = [run.metrics[name] for run in runs]
            found |= over_runs(values, LARGEST[name]).metrics(name)
            found |= {f"{name}_least": min(values), f"{name}_most": max(values)}
    return found


def _row_of(runs: Sequence[RunFolder], seed: int) -> RunFolder:
    """Make one run of all runs of a row; the intervals are those of the mean over its runs."""
    averaged = average(runs)
    names = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    names = [name for name in names if not name.endswith(("_low", "_high"))]
    means = {name: fmean(run.metrics[name] for run in runs) for name in names}
    return RunFolder(
        averaged.path, averaged.questions, averaged.prompt, means | averaged.summary(seed)
    )


def _row(name: str, run: RunFolder) -> Evaluated:
    """Make the row of a run, with its memory in GiB."""
    memory = {key: run.metrics[key] / 2**30 for key in ("peak_memory",) if key in run.metrics}
    return Evaluated({"Run": name}, run.metrics | memory)


def _seeds(seeds: Mapping[str, dict[str, float]]) -> str:
    """Write a Markdown page with a row for each score of each row that has several runs."""
    lines = [
        [
            name,
            heading,
            f"{found['n']:.0f}",
            with_interval(found, score, digits),
            *(f"{found[f'{score}_{end}']:.{digits}f}" for end in ("least", "most")),
        ]
        for name, found in seeds.items()
        for score, (heading, digits) in SCORES.items()
        if score in found
    ]
    text = (
        "How much runs differ that differ in their seed: the mean over seeds with its 95 % t "
        "interval, and the lowest and\nthe highest run. All of them answered the same questions.\n"
    )
    headings = ["Run", "Score", "Seeds", "Mean", "Lowest", "Highest"]
    return f"{text}\n{markdown_table(lines, headings, labels=2)}"


def _differences(gains: Mapping[str, dict[str, float]], compared: str, common: bool) -> str:
    """Write a Markdown page with a row for each run that is compared."""
    which = (
        "n questions that both\nhave; questions that only one has are left out"
        if common
        else "same n\nquestions"
    )
    text = (
        f"How much each run differs from {compared}, question by question, with 95 % intervals, "
        f"over the {which}: EM, F1 and Acc in points, nll in nats an answer token.\n"
    )
    rows = [Evaluated({"Run": name}, gain) for name, gain in gains.items()]
    return f"{text}\n{table(rows, SCORES | _COUNT)}"
