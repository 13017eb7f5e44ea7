"""The report on runs of sequential editing: metrics, matrices, heat maps, and tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from genpoe.sequential import scoring
from genpoe.sequential.picture import draw_matrices
from genpoe.sequential.run import (
    BASE,
    MADE_WITH,
    RESTORED,
    STREAM,
    all_rows,
    known_mean,
    read_states,
)
from genpoe.sequential.summary import (
    COLUMNS,
    Cells,
    cells,
    locality_metrics,
    matrix_metrics,
    paired_states,
    retention,
)
from plumbing.storage.files import sha256_of, write_json, write_whole
from plumbing.storage.jsonl import DataError, read_jsonl
from qa.tables.tables import markdown_table, with_interval

# What is asked with the passages of a kind, and the prefix of its metrics.
_PREFIXES = {scoring.MAIN: "", scoring.RAG: "rag/"}
_EXTRA = (scoring.ORACLE, scoring.SHUFFLED, scoring.GENERALITY, scoring.EDIT, scoring.FINAL)


@dataclass(frozen=True)
class StreamRun:
    """A run as it was written.

    Attributes:
        folder: The run folder.
        states: What was scored at each state.
        batches: The number of batches.
        targets: The targets of each batch's edits.
        base: The untouched backbone's answers to the questions of locality.
        restored: What came of taking all edits back.
    """

    folder: Path
    states: list[dict[str, Any]]
    batches: int
    targets: list[list[str]]
    base: dict[str, str]
    restored: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of scores."""
        return all_rows(self.states)

    def cells(self, kind: str = scoring.MAIN) -> Cells:
        """The cells of one kind of question."""
        return cells(self.rows, kind)


def read_sequence(folder: str | Path) -> StreamRun:
    """Read the run folder of ``scripts/sequential_edit.py``.

    Raises:
        DataError: If it is none, or the run has not ended.
    """
    folder = Path(folder)
    if not (folder / MADE_WITH).is_file() or not (folder / STREAM).is_file():
        raise DataError(
            f"{folder}: expected the run folder of scripts/sequential_edit.py, found no {STREAM}; "
            "check runs=[…]"
        )
    targets: dict[int, list[str]] = {}
    for _, row in read_jsonl(folder / STREAM):
        targets.setdefault(row["batch"], []).append(row["answers"][0])
    states = read_states(folder)
    if len(states) != len(targets) + 1 or not (folder / RESTORED).is_file():
        raise DataError(
            f"{folder}: expected {len(targets) + 1} states, found {len(states)}: the run has not "
            "ended; repeat its command with hydra.run.dir set to this folder"
        )
    base, restored = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (BASE, RESTORED)
    )
    return StreamRun(folder, states, len(targets), [*targets.values()], base, restored)


def metrics_of(run: StreamRun, seed: int = 0) -> dict[str, Any]:
    """The metrics of a run, as in its ``metrics.json``.

    Returns:
        `matrix_metrics` and `paired_states` of the test questions, and of those with passages in
        the prompt behind ``rag/``; ``generality/…``, ``oracle/…``, ``shuffled/…``, ``edit/…`` and
        ``more/…`` (further questions at the last state); ``router/recall`` at the last state;
        ``locality`` and what else `locality_metrics` gives, at the last state; ``health/…``;
        seconds; and the hashes of the weights before, at the end, and after taking everything back.
    """
    rows, found = run.rows, dict[str, Any]()
    for kind, prefix in _PREFIXES.items():
        matrix = run.cells(kind)
        some = matrix_metrics(matrix, run.batches)
        some |= paired_states(rows, run.batches, kind, seed)
        if (kept := retention(some)) is not None:
            some["retention/em"] = kept
        last = [cell for (state, _), cell in matrix.items() if state == run.batches]
        if last and all("recall" in cell for cell in last):
            some["router/recall"] = fmean(cell["recall"] for cell in last)
        found |= {f"{prefix}{key}": value for key, value in some.items()}
    for kind in _EXTRA:
        found |= _extra(run, kind)
    local = locality_metrics(rows, run.base, run.targets)
    if local:
        end = local[run.batches]
        found |= {"locality": end["locality"], "locality/before": local[0]["locality"]}
        found |= {f"locality/{name}": end[name] for name in ("em", "bleeding")}
    ends = run.states[0]["health"], run.states[-1]["health"]
    for name, end in zip(("before", "final"), ends, strict=True):
        for key in ("perplexity", "kl"):
            if end.get(key) is not None:
                found[f"health/{key}/{name}"] = end[key]
        found[f"health/moved/{name}"] = max(end["moved"].values(), default=0.0)
    last_rows = [r for r in rows if r["state"] == run.batches and r["kind"] == scoring.MAIN]
    found["n"] = len(last_rows)
    found |= _seconds(run)
    return found | run.restored


def _extra(run: StreamRun, kind: str) -> dict[str, float]:
    """The means over batches of further questions: before, right after the edit, and at the end."""
    matrix = run.cells(kind)
    every = range(1, run.batches + 1)
    places = {
        "before": [(0, j) for j in every],
        "immediate": [(j, j) for j in every],
        "final": [(run.batches, j) for j in every],
    }
    name = "more" if kind == scoring.FINAL else kind
    return {
        f"{name}/{what}/{score}": fmean(matrix[place][score] for place in some)
        for what, some in places.items()
        for score in ("em", "f1", "nll")
        if all(place in matrix and score in matrix[place] for place in some)
    }


def _seconds(run: StreamRun) -> dict[str, float]:
    """How long an edit took: the median, and the 95th percentile, of the batches' means.

    An edit is an entry of the stream, whether it is one passage or several facts.
    """
    batches = [state["edit"] for state in run.states[1:]]
    each = [
        one["seconds"] / len(targets)
        for one, targets in zip(batches, run.targets, strict=True)
        if one.get("ids")
    ]
    found = {}
    if each:
        found["seconds_per_edit"] = median(each)
        found["seconds_per_edit_p95"] = float(np.quantile(each, 0.95))
        found["edits"] = float(sum(len(targets) for targets in run.targets))
        found["edit_facts"] = float(sum(len(one["ids"]) for one in batches))
        found["edits_stuck"] = float(sum(len(one["stuck"]) for one in batches))
    for name in ("not_applicable", "left_out"):
        found[f"edits_{name}"] = float(sum(state.get(name, 0) for state in run.states))
    for end in ("before", "after"):
        every = [value for one in batches for value in one.get(f"nll_{end}", ())]
        if (mean := known_mean(every)) is not None:
            found[f"edit_nll_{end}"] = mean
    index = [state["health"]["index_seconds"] for state in run.states[1:]]
    if all(seconds is not None for seconds in index):
        found["index_seconds_per_batch"] = median(index)
    return found


def write_matrix(path: Path, matrices: Mapping[str, Cells]) -> None:
    """Write cells as CSV; with several methods there is a column for the method.

    Args:
        path: The file.
        matrices: The cells of each method.
    """
    text = io.StringIO()
    labels = ["method"] if len(matrices) > 1 else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*labels, *COLUMNS])
    for label, matrix in matrices.items():
        for (state, batch), cell in sorted(matrix.items()):
            numbers = [f"{cell[name]:g}" if name in cell else "" for name in COLUMNS[2:]]
            writer.writerow([*[label][: len(labels)], state, batch, *numbers])
    with write_whole(path) as file:
        file.write(text.getvalue().encode())


def write_states(path: Path, run: StreamRun) -> None:
    """Write as CSV how the model was at each state, and what the edits before it did."""
    local = locality_metrics(run.rows, run.base, run.targets)
    rows = []
    for state in run.states:
        edit, number = state["edit"], state["state"]
        rows.append(
            {
                "state": number,
                "state_hash": state["state_hash"],
                **local.get(number, {}),
                "kl": state["health"].get("kl"),
                "perplexity": state["health"]["perplexity"],
                "moved": max(state["health"]["moved"].values(), default=0.0),
                "edits": len(edit.get("ids", [])),
                "stuck": len(edit.get("stuck", [])),
                "edit_nll_before": known_mean(edit.get("nll_before")),
                "edit_nll_after": known_mean(edit.get("nll_after")),
            }
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[-1]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with write_whole(path) as file:
        file.write(text.getvalue().encode())


def write_run_report(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write the metrics of one run, its matrix, how each state was, heat maps, and a table.

    With RAG there is also ``matrix_rag.csv``, and a second panel.
    """
    run = read_sequence(folder)
    metrics = metrics_of(run, seed)
    write_states(folder / "states.csv", run)
    write_matrix(folder / "matrix.csv", {"": run.cells()})
    panels = {"as the method answers": run.cells()}
    if with_rag := run.cells(scoring.RAG):
        write_matrix(folder / "matrix_rag.csv", {"": with_rag})
        panels["with passages in the prompt"] = with_rag
    draw_matrices(panels, folder / "heatmap.png")
    (folder / "table.md").write_text(tables({"": run}, {"": metrics}), encoding="utf-8")
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_report(folders: Mapping[str, str | Path], out: Path, seed: int = 0) -> dict[str, Any]:
    """Write the report on several runs of one stream, by their labels.

    Raises:
        DataError: If a run is missing or has not ended, or the streams differ.
    """
    runs = {label: read_sequence(folder) for label, folder in folders.items()}
    streams = {label: _stream_of(run.folder) for label, run in runs.items()}
    first = next(iter(streams))
    for label, stream in streams.items():
        if stream != streams[first]:
            raise DataError(
                f"{runs[label].folder}: expected the stream of {runs[first].folder}, got another "
                "one; compare runs of the same data, edits, batch and seed"
            )
    out.mkdir(parents=True, exist_ok=True)
    metrics = {label: metrics_of(run, seed) for label, run in runs.items()}
    panels: dict[str, Cells] = {label: run.cells() for label, run in runs.items()}
    rag = {label: run.cells(scoring.RAG) for label, run in runs.items()}
    panels |= {f"{label} + RAG": matrix for label, matrix in rag.items() if matrix}
    write_matrix(out / "matrix.csv", panels)
    draw_matrices(panels, out / "heatmap.png")
    (out / "table.md").write_text(tables(runs, metrics), encoding="utf-8")
    flat = {f"{label}/{key}": v for label, found in metrics.items() for key, v in found.items()}
    write_json(out / "metrics.json", flat)
    return flat


def _stream_of(folder: Path) -> str:
    return sha256_of(folder / STREAM)


def tables(runs: Mapping[str, StreamRun], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of a report, in Markdown: forgetting, and what the edits did besides."""
    parts = ["EM (%) without passages in the prompt, unless the method itself puts them there.\n"]
    parts.append(_forgetting(metrics, ""))
    if any("rag/final/em" in found for found in metrics.values()):
        parts += ["\nEM (%) with passages in the prompt.\n", _forgetting(metrics, "rag/")]
    parts += ["\nWhat else the edits did.\n", _besides(metrics)]
    return "\n".join(part.rstrip("\n") for part in parts) + "\n"


def _forgetting(metrics: Mapping[str, Mapping[str, Any]], prefix: str) -> str:
    columns = {
        "before": "before/em",
        "right after": "immediate/em",
        "at the end": "final/em",
        "not yet made": "control/em",
        "end − just before [95 %]": "final_minus_just_before/em",
        "end − right after [95 %]": "final_minus_immediate/em",
        "kept (%)": "retention/em",
        "found (%)": "router/recall",
        "own passage": "oracle/final/em",
        "another's": "shuffled/final/em",
        "nll at the end": "final/nll",
    }
    return _table(metrics, columns, prefix)


def _besides(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    columns = {
        "pairs right after": "edit/immediate/em",
        "pairs at the end": "edit/final/em",
        "rephrased": "generality/final/em",
        "locality": "locality",
        "bleeding": "locality/bleeding",
        "KL": "health/kl/final",
        "perplexity before": "health/perplexity/before",
        "perplexity at the end": "health/perplexity/final",
        "‖ΔW‖/‖W‖": "health/moved/final",
        "s/edit": "seconds_per_edit",
        "p95": "seconds_per_edit_p95",
    }
    return _table(metrics, columns, "")


_DIGITS = {"nll": 2, "kl": 3, "moved": 4, "perplexity": 1, "seconds_per_edit": 4}


def _table(
    metrics: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], prefix: str
) -> str:
    keys = {
        heading: key if key.split("/")[0] in (scoring.ORACLE, scoring.SHUFFLED) else prefix + key
        for heading, key in columns.items()
    }
    if prefix:  # these are of the method's own prompts
        keys = {h: k for h, k in keys.items() if k.startswith(prefix)}
    shown = {h: k for h, k in keys.items() if any(k in found for found in metrics.values())}
    rows = []
    for label, found in metrics.items():
        if any(key in found for key in shown.values()):
            rows.append([label or "this run", *(_shown(found, key) for key in shown.values())])
    return markdown_table(rows, ["method", *shown], labels=1)


def _shown(found: Mapping[str, Any], key: str) -> str:
    if found.get(key) is None:
        return ""
    digits = next((d for part, d in _DIGITS.items() if part in key), 1)
    return with_interval(dict(found), key, digits)


def labelled(runs: Sequence[str], labels: Sequence[str] | None) -> dict[str, str]:
    """The folders by their labels, which by default are the folders' names."""
    names = [Path(run).resolve().name for run in runs] if labels is None else [*labels]
    return dict(zip(names, runs, strict=True))
