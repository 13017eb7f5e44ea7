"""Pairing the questions of two runs by their ids: the one way in which runs are compared.

Two runs are compared only if they answered the same questions, whatever the order of their lines.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from plumbing.storage.jsonl import DataError, describe
from qa.evaluation.evaluate import LARGEST, SCALE
from qa.evaluation.run_folder import Answered, Predictions
from qa.statistics import clusters_of, difference

log = logging.getLogger(__name__)

Pairs = list[tuple[Answered, Answered]]

_WORDS = {"question": "text", "answers": "answers", "gold_ids": "gold passages"}


def pair(run: Predictions, other: Predictions, common: bool = False) -> Pairs:
    """Pair the lines of two runs by the id of their question.

    If the runs asked under other prompts, a warning says so, because a difference may be that of
    the prompts.

    Args:
        run: One run, whose order the pairs have.
        other: The other run.
        common: If True, questions that only one of the two has are left out. Else they are an
            error.

    Returns:
        For each question its line in the one run and in the other.

    Raises:
        DataError: If the runs have other questions, or none in common; or if a question has another
            text, other answers or other gold passages in one than in the other. It names the files
            and, where it is about a single question, the line.
    """
    both = [id for id in run.questions if id in other.questions]
    if not both:
        raise DataError(
            f"{run.path} and {other.path} have no question in common; compare evaluations of the "
            "same data and split"
        )
    pairs = [(run.questions[id], other.questions[id]) for id in both]
    for line, counterpart in pairs:
        for what, words in _WORDS.items():
            got, expected = getattr(line, what), getattr(counterpart, what)
            if None not in (got, expected) and got != expected:
                raise DataError(
                    f"{line.where}: expected the {words} that the question of this id has "
                    f"in {counterpart.where}, {describe(expected)}, got {describe(got)}; compare "
                    "evaluations of the same data and split"
                )
    if not common:
        _check_complete(run, other)
        _check_complete(other, run)
    if run.prompt != other.prompt:
        log.warning(
            "%s and %s asked under other prompts, %r and %r; evaluate one of them again",
            *(run.path, other.path, run.prompt, other.prompt),
        )
    return pairs


def differences(
    run: Predictions, baseline: Predictions, seed: int = 0, common: bool = False
) -> dict[str, float]:
    """Subtract the scores of a baseline from those of a run, question by question.

    Args:
        run: The run that is compared.
        baseline: The run whose scores are subtracted.
        seed: The seed of the bootstrap.
        common: As in `pair`.

    Returns:
        ``n``, the number of pairs, and ``clusters``, that of their clusters (`clusters_of`). For
        each score that all of these questions have in both runs, also ``<name>``, ``<name>_low``
        and ``<name>_high``: the mean difference and the ends of its 95 % interval. ``em``, ``f1``
        and ``acc`` are in points, ``nll`` is in nats for each answer token.

    Raises:
        DataError: As in `pair`.
    """
    pairs = pair(run, baseline, common)
    # A run of before the field does not know the gold passages, but the other one may.
    gold = [one.gold_ids if one.gold_ids is not None else two.gold_ids for one, two in pairs]
    clusters = clusters_of(gold)
    found: dict[str, float] = {"n": len(pairs), "clusters": len(set(clusters))}
    for name, scale in SCALE.items():
        if all(name in line.scores for each in pairs for line in each):
            a, b = (
                [scale * line.scores[name] for line in side] for side in zip(*pairs, strict=True)
            )
            found |= difference(a, b, clusters, LARGEST[name], seed).metrics(name)
    return found


def average(runs: Sequence[Predictions]) -> Predictions:
    """Average runs that differ in their seed, question by question.

    Args:
        runs: The runs. They must have answered the same questions.

    Returns:
        The lines of the first run, with the mean of each score that all lines have.

    Raises:
        DataError: As in `pair`.
    """
    first, *others = runs
    sides = [pair(first, other) for other in others]
    questions: dict[str, Answered] = {}
    for i, (id, line) in enumerate(first.questions.items()):
        lines = [line, *(pairs[i][1] for pairs in sides)]
        shared = [name for name in line.scores if all(name in one.scores for one in lines)]
        means = {name: fmean(one.scores[name] for one in lines) for name in shared}
        questions[id] = replace(line, scores=means)
    return Predictions(first.path, questions, first.prompt)


def _check_complete(run: Predictions, other: Predictions) -> None:
    """Check that a run has all questions of another one."""
    missing = [id for id in other.questions if id not in run.questions]
    if missing:
        raise DataError(
            f"{run.path}: expected the {len(other.questions)} questions of {other.path}, but "
            f"{len(missing)} of them are missing, such as {missing[0]!r}; evaluate both with the "
            "same data, split, limit and sample_seed"
        )
