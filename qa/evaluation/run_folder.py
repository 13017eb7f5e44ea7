"""Reading run folders of ``scripts/evaluate.py``, and the differences between two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbing.storage.jsonl import (
    DataError,
    check_new_id,
    describe,
    read_jsonl,
    require_key,
    text_field,
)
from qa.evaluation.evaluate import SCALE
from qa.metrics import paired_difference

_NEEDED = ("em", "nll", "n")
_ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class Answered:
    """A line of ``predictions.jsonl``.

    Attributes:
        where: The line as ``file:line``, for messages.
        answers: The answers that count as right.
        scores: Its scores among em, f1, acc and nll, in the units of ``metrics.json``.
    """

    where: str
    answers: list[str]
    scores: dict[str, float]


@dataclass(frozen=True)
class RunFolder:
    """An evaluation as it was written.

    Attributes:
        folder: The run folder.
        metrics: The content of ``metrics.json``.
        questions: The lines of ``predictions.jsonl``, by the id of the question.
    """

    folder: Path
    metrics: dict[str, float]
    questions: dict[str, Answered]

    @property
    def predictions(self) -> Path:
        """The file of the predictions."""
        return self.folder / "predictions.jsonl"


def read_run(folder: str | Path) -> RunFolder:
    """Read the run folder of an evaluation.

    Raises:
        DataError: If a file is missing or malformed, if it lacks what an evaluation writes, or if
            the two files have different numbers of questions. It names the file and the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected the run folder of scripts/evaluate.py, found "
            f"{'a file' if folder.exists() else 'nothing'}; check runs=[…]"
        )
    metrics = _read_metrics(folder / "metrics.json")
    run = RunFolder(folder, metrics, {})
    lines: dict[str, int] = {}
    for number, row in read_jsonl(run.predictions):
        where = f"{run.predictions}:{number}"
        id = text_field(row, "id", where)
        check_new_id(lines, id, "question", run.predictions, number)
        run.questions[id] = _answered(row, where)
    if len(run.questions) != metrics["n"]:
        raise DataError(
            f"{run.predictions}: expected the {metrics['n']:.0f} questions of metrics.json beside "
            f"it, got {len(run.questions)}; evaluate again"
        )
    return run


def differences(run: RunFolder, baseline: RunFolder, seed: int = 0) -> dict[str, float]:
    """Subtract the scores of a baseline from those of a run, question by question.

    Args:
        run: The run that is compared.
        baseline: The run whose scores are subtracted.
        seed: The seed of the bootstrap.

    Returns:
        ``n``, the number of questions that both runs have. For each score that all of these
        questions have in both runs, also ``<name>``, ``<name>_low`` and ``<name>_high``: the mean
        difference and the ends of its 95 % bootstrap interval. ``em``, ``f1`` and ``acc`` are in
        points, ``nll`` is in nats for each answer token.

    Raises:
        DataError: If the runs have no question in common, or a question has other answers in one
            than in the other.
    """
    both = [id for id in run.questions if id in baseline.questions]
    if not both:
        raise DataError(
            f"{run.predictions} and {baseline.predictions} have no question in common; compare "
            "evaluations of the same data and split"
        )
    pairs = [(run.questions[id], baseline.questions[id]) for id in both]
    for one, other in pairs:
        if one.answers != other.answers:
            raise DataError(
                f"{one.where}: expected the answers that the question of this id has in "
                f"{other.where}, {describe(other.answers)}, got {describe(one.answers)}; compare "
                "evaluations of the same data and split"
            )
    found: dict[str, float] = {"n": len(both)}
    for name in SCALE:
        if all(name in line.scores for pair in pairs for line in pair):
            a, b = ([line.scores[name] for line in side] for side in zip(*pairs, strict=True))
            values = paired_difference(a, b, seed)
            found |= {f"{name}{end}": value for end, value in zip(_ENDS, values, strict=True)}
    return found


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: expected the metrics of an evaluation, found none; name run folders of "
            "scripts/evaluate.py that ended"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}); evaluate again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, got {error.reason}; evaluate again") from error
    if not isinstance(metrics, dict):
        raise DataError(f"{path}: expected a JSON object, got {describe(metrics)}; evaluate again")
    for name in _NEEDED:
        require_key(metrics, name, str(path))
    return {name: _number(metrics, name, str(path)) for name in metrics}


def _answered(row: Mapping[str, Any], where: str) -> Answered:
    answers = require_key(row, "answers", where)
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(
            f"{where}: 'answers' must be a list of strings, got {describe(answers)}; evaluate again"
        )
    scores = {
        name: scale * _number(row, name, where) for name, scale in SCALE.items() if name in row
    }
    return Answered(where, answers, scores)


def _number(row: Mapping[str, Any], key: str, where: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: {key!r} must be a number, got {describe(value)}; evaluate again")
    return value
