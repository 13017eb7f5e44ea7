"""What the scores of a stream come to: a matrix of cells, forgetting, locality, and intervals.

M[i, j] is the mean score of batch j's questions at state i. Before are the cells of state 0,
immediate are those with i = j, final are those of the last state, and the control are those with
j > i, whose edits had not been made.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from genpoe.sequential import scoring
from genpoe.sequential.health import is_broken
from qa.evaluation.evaluate import SCALE
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import Answered, Predictions
from qa.metrics import normalize_answer
from qa.prompts import prompt_template

Row = Mapping[str, Any]
Cells = dict[tuple[int, int], dict[str, float]]

_SCALES = {**{name: SCALE[name] for name in ("em", "f1", "nll")}, "prefix": 100.0}
SCORES = {**_SCALES, "token_accuracy": 100.0}
COLUMNS = ("state", "batch", "em", "f1", "nll", "n", "prefix", "token_accuracy", "recall", "broken")


def cells(rows: Sequence[Row], kind: str = scoring.MAIN) -> Cells:
    """The mean scores of each cell, by its state and batch.

    Returns:
        For each cell ``em``, ``f1``, ``prefix`` (the answer begins with the right one),
        ``token_accuracy``, ``recall`` (the edit's passage was found) and ``broken`` (the answer is
        empty or repeats itself) in percent, ``nll`` in nats a token over those that are finite,
        and ``n``. What is not known is left out.
    """
    groups: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row["kind"] == kind:
            groups[row["state"], row["batch"]].append(row)
    return {place: _cell(some) for place, some in groups.items()}


def _cell(rows: Sequence[Row]) -> dict[str, float]:
    found: dict[str, float] = {"n": len(rows)}
    for name, scale in SCORES.items():
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            found[name] = scale * fmean(values)
    hits = [row["found"] for row in rows if row["found"] is not None]
    if hits:
        found["recall"] = 100.0 * fmean(hits)
    found["broken"] = 100.0 * fmean(is_broken(row["prediction"]) for row in rows)
    return found


def matrix_metrics(matrix: Cells, batches: int) -> dict[str, float]:
    """Before, immediate, final, forgetting and the like, for each score.

    Args:
        matrix: The cells.
        batches: The number of batches.

    Returns:
        By ``<what>/<score>``: ``before``, ``immediate``, ``final``, ``control`` (the cells of edits
        not yet made, of states 1 on), ``forgetting`` (the mean fall from the best state after the
        edit to the last), ``backward_transfer`` (final minus immediate, over all batches but the
        last), and ``headline`` (final minus just before the edit). For the nll, less is better, so
        its best is the smallest; forgetting is how far the nll rises above it.
    """
    found: dict[str, float] = {}
    every = range(1, batches + 1)
    for name in _SCALES:
        sign = -1.0 if name == "nll" else 1.0

        def at(state: int, batch: int, name: str = name) -> float | None:
            return matrix.get((state, batch), {}).get(name)

        later = [(i, j) for j in every for i in range(1, j)]
        groups = {
            "before": [at(0, j) for j in every],
            "immediate": [at(j, j) for j in every],
            "final": [at(batches, j) for j in every],
            "control": [at(i, j) for i, j in later],
            "headline": [_minus(at(batches, j), at(j - 1, j)) for j in every],
            "backward_transfer": [_minus(at(batches, j), at(j, j)) for j in every[:-1]],
            "forgetting": [_fall([at(i, j) for i in range(j, batches + 1)], sign) for j in every],
        }
        for what, values in groups.items():
            known = [value for value in values if value is not None]
            if known and len(known) == len(values):
                found[f"{what}/{name}"] = fmean(known)
    return found


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _fall(values: Sequence[float | None], sign: float) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return max(sign * value for value in known) - sign * known[-1]


def predictions(rows: Sequence[Row], name: str) -> Predictions:
    """Rows as the predictions of an evaluation, so that two of them can be paired."""
    questions = {
        row["edit"]: Answered(
            f"{name}:{number}",
            row["question"],
            list(row["answers"]),
            [row["edit"]],
            {score: row[score] for score in ("em", "f1", "nll") if row[score] is not None},
        )
        for number, row in enumerate(rows, 1)
    }
    return Predictions(Path(name), questions, prompt_template())


# The headline and other differences of states, each paired question by question: what the state of
# the one and of the other is for a question of batch j, when there are n batches.
_PAIRS = {
    "final_minus_just_before": (lambda j, n: n, lambda j, n: j - 1),
    "final_minus_immediate": (lambda j, n: n, lambda j, n: j),
    "immediate_minus_before": (lambda j, n: j, lambda j, n: 0),
    "final_minus_before": (lambda j, n: n, lambda j, n: 0),
}


def paired_states(rows: Sequence[Row], batches: int, kind: str, seed: int) -> dict[str, float]:
    """The differences between states, with 95 % intervals over the questions.

    Returns:
        By ``<difference>/<score>``, and with ``_low`` and ``_high`` behind it; EM and F1 in points.
    """
    found: dict[str, float] = {}
    some = [row for row in rows if row["kind"] == kind]
    for name, (one, other) in _PAIRS.items():
        sides = [
            predictions([r for r in some if r["state"] == at(r["batch"], batches)], name)
            for at in (one, other)
        ]
        if sides[0].questions and sides[0].questions.keys() == sides[1].questions.keys():
            gains = differences(*sides, seed)
            found |= {f"{name}/{key}": value for key, value in gains.items() if key != "clusters"}
    return found


def locality_metrics(
    rows: Sequence[Row], base: Mapping[str, str], targets: Sequence[Sequence[str]]
) -> dict[int, dict[str, float]]:
    """How far answers to unrelated questions stayed as they were, state by state.

    Args:
        rows: The rows of all states.
        base: The answer of the untouched backbone to each question, by its id.
        targets: The targets of the edits of each batch.

    Returns:
        For each state ``locality`` (the share of answers that equal the untouched backbone's),
        ``em`` (that are right) and ``bleeding`` (that are the target of some edit made so far,
        and were not before), in percent.
    """
    found: dict[int, dict[str, float]] = {}
    for state in sorted({row["state"] for row in rows}):
        some = [r for r in rows if r["kind"] == scoring.LOCALITY and r["state"] == state]
        if not some:
            continue
        made = {normalize_answer(t) for batch in targets[:state] for t in batch}
        pairs = [(normalize_answer(r["prediction"]), normalize_answer(base[r["id"]])) for r in some]
        found[state] = {
            "locality": 100.0 * fmean(now == before for now, before in pairs),
            "em": 100.0 * fmean(r["em"] for r in some),
            "bleeding": 100.0 * fmean(now in made and now != before for now, before in pairs),
        }
    return found


def retention(metrics: Mapping[str, float]) -> float | None:
    """The share of the EM right after editing that is left at the end, in percent."""
    immediate = metrics.get("immediate/em")
    if not immediate or math.isnan(immediate):
        return None
    return 100.0 * metrics["final/em"] / immediate
