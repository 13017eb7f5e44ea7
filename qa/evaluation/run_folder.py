"""Reading what ``scripts/evaluate.py`` wrote into a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
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
from qa.evaluation.evaluate import MADE_WITH, SCALE, summarize
from qa.prompts import PROMPT_OF_0_1

_NEEDED = ("em", "nll", "n")


@dataclass(frozen=True)
class Decoding:
    """What a method with a trigger says about the tokens that it decoded.

    Attributes:
        uncertainty: The entropy in nats of each token that the backbone predicted alone, which are
            all up to and including the first that triggered.
        tokens: The number of all tokens.
        triggers: How many of them triggered.
    """

    uncertainty: list[float]
    tokens: int
    triggers: int


@dataclass(frozen=True)
class Answered:
    """A line of ``predictions.jsonl``.

    Attributes:
        where: The line as ``file:line``, for messages.
        question: What was asked; None if the line does not say so.
        answers: The answers that count as right.
        gold_ids: The gold passages of the question; None if the line does not say so, as in runs
            of before the field.
        scores: Its scores among em, f1, acc and nll, as they stand in the line.
        decoding: What the line says about its tokens; None if it does not say how uncertain they
            are.
    """

    where: str
    question: str | None
    answers: list[str]
    gold_ids: list[str] | None
    scores: dict[str, float]
    decoding: Decoding | None = None


@dataclass(frozen=True)
class Predictions:
    """The answers of one evaluation.

    Attributes:
        path: The file ``predictions.jsonl``.
        questions: Its lines, by the id of the question.
        prompt: The `qa.prompts.prompt_template` of the run.
    """

    path: Path
    questions: dict[str, Answered]
    prompt: str

    @property
    def is_clustered(self) -> bool:
        """True if the gold passages of every question are known, and with them the clusters."""
        return all(line.gold_ids is not None for line in self.questions.values())

    def part(self, ids: Iterable[str]) -> Predictions:
        """The answers to the questions with these ids, in their order; unknown ids are left out."""
        questions = {id: self.questions[id] for id in ids if id in self.questions}
        return Predictions(self.path, questions, self.prompt)

    def summary(self, seed: int = 0) -> dict[str, float]:
        """The mean scores with their intervals; see `qa.evaluation.evaluate.summarize`."""
        lines = self.questions.values()
        return summarize([{**line.scores, "gold_ids": line.gold_ids} for line in lines], seed)


@dataclass(frozen=True)
class RunFolder(Predictions):
    """An evaluation as it was written.

    Attributes:
        metrics: The content of ``metrics.json``.
    """

    metrics: dict[str, float]


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
    read = read_predictions(folder / "predictions.jsonl")
    if len(read.questions) != metrics["n"]:
        raise DataError(
            f"{read.path}: expected the {metrics['n']:.0f} questions of metrics.json beside "
            f"it, got {len(read.questions)}; evaluate again"
        )
    return RunFolder(read.path, read.questions, read.prompt, metrics)


def read_predictions(path: str | Path) -> Predictions:
    """Read the predictions of an evaluation.

    Raises:
        DataError: If the file is missing or malformed, has no line, or has a question twice. It
            names the file and the line.
    """
    path = Path(path)
    questions: dict[str, Answered] = {}
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        id = text_field(row, "id", where)
        check_new_id(lines, id, "question", path, number)
        questions[id] = _answered(row, where)
    if not questions:
        raise DataError(f"{path}: expected a line for each question, found none; evaluate again")
    _check_scores(questions.values())
    return Predictions(path, questions, _read_prompt(path.parent / MADE_WITH))


def _check_scores(lines: Collection[Answered]) -> None:
    """Check that a score that one line has is in all; only yes/no questions have an accuracy."""
    for name in SCALE:
        without = [line for line in lines if name not in line.scores]
        if name != "acc" and 0 < len(without) < len(lines):
            raise DataError(
                f"{without[0].where}: expected the key {name!r}, which {len(lines) - len(without)} "
                f"of the {len(lines)} lines have; evaluate again"
            )


def _read_prompt(path: Path) -> str:
    """The prompt of a run; version 0.1 did not write it."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["prompt"])
    except FileNotFoundError:
        return PROMPT_OF_0_1
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path}: expected an object with the prompt of an evaluation; evaluate again"
        ) from error


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
    answers = _texts(require_key(row, "answers", where), "answers", where)
    gold = row.get("gold_ids")
    return Answered(
        where,
        text_field(row, "question", where) if "question" in row else None,
        answers,
        None if gold is None else _texts(gold, "gold_ids", where),
        {name: _score(row, name, where) for name in SCALE if name in row},
        _decoding(row, where) if "uncertainty" in row else None,
    )


def _decoding(row: Mapping[str, Any], where: str) -> Decoding:
    values, routed = row["uncertainty"], require_key(row, "routed", where)
    try:
        first = routed[0]["position"] if routed else len(values) - 1
        alone = [float(value) for value in values[: first + 1]]
        tokens, triggers = int(row["tokens"]), int(row["triggers"])
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: expected the numbers that method=dmoe writes about its tokens; evaluate "
            "again"
        ) from error
    if not alone or not all(map(math.isfinite, alone)):
        raise DataError(
            f"{where}: expected the finite uncertainty of one token or more, got "
            f"{describe(values)}; evaluate again"
        )
    return Decoding(alone, tokens, triggers)


def _score(row: Mapping[str, Any], key: str, where: str) -> float:
    value = _number(row, key, where)
    if not math.isfinite(value):
        raise DataError(f"{where}: {key!r} must be a finite number, got {value}; evaluate again")
    return value


def _texts(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DataError(
            f"{where}: {key!r} must be a list of strings, got {describe(value)}; evaluate again"
        )
    return value


def _number(row: Mapping[str, Any], key: str, where: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: {key!r} must be a number, got {describe(value)}; evaluate again")
    return value
