"""CounterFact and zsRE: sets of facts that contradict what a model knows, with their own fields.

Each row becomes a `Fact` with rephrasings (generality) and unrelated prompts (locality), a question
for methods that answer, and a passage of one line for methods that read. All of them show the same
prompt.

Rows that could not be scored are left out, and counted: a prompt that occurs twice (the last row
stays if the targets differ), a target that is true already, and a training row about a subject of
the test rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genpoe.editors.parts.facts import Fact
from plumbing.storage.jsonl import DataError, describe, find_jsonl, read_jsonl, text_field
from qa.data.dataset import QADataset, Question, SentenceStart
from qa.metrics import normalize_answer
from retrieval.passage import Passage

log = logging.getLogger(__name__)

_OF_NQ = "nq question: "  # before each locality question of zsRE


@dataclass(frozen=True)
class FactSet(QADataset):
    """Facts to edit, which are a data set as well.

    The split ``test`` asks the prompts of the facts themselves, and ``test_rephrased`` asks their
    rephrasings. The gold passage of a question is its fact as one line.

    Attributes:
        facts: The facts of each split, ``train`` (where there is one) and ``test``. The
            ``passage_id`` of a fact is the id of its passage of one line.
        left_out: How many rows were left out, by the reason.
    """

    facts: Mapping[str, list[Fact]]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Row:
    """A row of either set: texts without the prompt around them."""

    id: str
    prompt: str
    target: str
    subject: str
    rephrasing: str
    locality: str
    locality_answer: str
    truths: tuple[str, ...]


def load_counterfact(dir: str | Path) -> FactSet:
    """Load CounterFact (Meng et al. 2022): sentence starts, with a target that is not true.

    Args:
        dir: A folder with ``counterfact.jsonl`` (the split test) and ``counterfact_train.jsonl``
            (the split train), each of which may end in ``.gz``.

    Raises:
        DataError: If a file is missing or a line is malformed; the message names file, line, key.
    """
    train = _read(find_jsonl(dir, "counterfact_train"), _counterfact_row)
    test = _read(find_jsonl(dir, "counterfact"), _counterfact_row)
    return _fact_set("counterfact", SentenceStart, {"train": train, "test": test})


def load_zsre(dir: str | Path) -> FactSet:
    """Load zsRE (Levy et al. 2017; Mitchell et al. 2022): questions, with another answer.

    Args:
        dir: A folder with ``zsre.jsonl`` (the split test), which may end in ``.gz``.

    Raises:
        DataError: If the file is missing or a line is malformed; the message names file, line, key.
    """
    return _fact_set("zsre", Question, {"test": _read(find_jsonl(dir, "zsre"), _zsre_row)})


def _read(path: Path, convert: Callable[[Mapping[str, Any], str, int], _Row]) -> list[_Row]:
    found = []
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        each = convert(row, where, number)
        if each.subject not in each.prompt:
            raise DataError(
                f"{where}: 'subject' must occur in the prompt, got {each.subject!r} and "
                f"{each.prompt!r}; correct one of them"
            )
        found.append(each)
    return found


def _counterfact_row(row: Mapping[str, Any], where: str, _: int) -> _Row:
    id = row.get("case_id")
    if type(id) is not int:
        raise DataError(f"{where}: 'case_id' must be a whole number, got {describe(id)}; add it")
    keys = ("prompt", "target_new", "subject", "rephrase_prompt", "locality_prompt")
    prompt, target, subject, rephrasing, asked = (
        text_field(row, key, where).strip() for key in keys
    )
    truth = text_field(row, "ground_truth", where)
    local = text_field(row, "locality_ground_truth", where)
    return _Row(f"counterfact-{id}", prompt, target, subject, rephrasing, asked, local, (truth,))


def _zsre_row(row: Mapping[str, Any], where: str, number: int) -> _Row:
    keys = ("src", "alt", "subject", "rephrase", "loc", "loc_ans")
    prompt, target, subject, rephrasing, loc, local = (
        text_field(row, key, where).strip() for key in keys
    )
    answers = row.get("answers")
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        raise DataError(f"{where}: 'answers' must be a list of strings, got {describe(answers)}")
    loc = loc.removeprefix(_OF_NQ).strip()
    asked = loc if loc.endswith("?") else f"{loc}?"
    return _Row(f"zsre-{number}", prompt, target, subject, rephrasing, asked, local, tuple(answers))


def _fact_set(name: str, kind: type[Question], rows: Mapping[str, list[_Row]]) -> FactSet:
    left_out = {"already_true": 0, "doubled": 0, "of_test_subjects": 0}
    kept = {split: _scorable(each, left_out) for split, each in rows.items()}
    subjects = {row.subject for row in kept["test"]}
    if "train" in kept:
        apart = [row for row in kept["train"] if row.subject not in subjects]
        left_out["of_test_subjects"] = len(kept["train"]) - len(apart)
        kept["train"] = apart
    if any(left_out.values()):
        said = ", ".join(f"{count} {why}" for why, count in left_out.items())
        log.info("%s: rows left out: %s", name, said)
    splits: dict[str, list[Question]] = {}
    facts: dict[str, list[Fact]] = {}
    passages: dict[str, Passage] = {}
    for split, each in kept.items():
        asked = [_question(kind, row.id, row.prompt, row) for row in each]
        again = [_question(kind, f"{row.id}-r", row.rephrasing, row) for row in each]
        splits |= {split: asked, f"{split}_rephrased": again}
        facts[split] = [_fact(kind, row) for row in each]
        passages |= {row.id: Passage(row.id, "", f"{row.prompt} {row.target}") for row in each}
    return FactSet(name, passages, splits, facts, left_out)


def _scorable(rows: Iterable[_Row], left_out: dict[str, int]) -> list[_Row]:
    """The rows with a target that is not true, the last one of each prompt."""
    found: dict[str, _Row] = {}
    for row in rows:
        if normalize_answer(row.target) in map(normalize_answer, row.truths):
            left_out["already_true"] += 1
            continue
        left_out["doubled"] += row.prompt in found
        found[row.prompt] = row
    return list(found.values())


def _question(kind: type[Question], id: str, text: str, row: _Row) -> Question:
    return kind(id, text, (row.target,), (row.id,))


def _fact(kind: type[Question], row: _Row) -> Fact:
    def prompt(text: str) -> str:
        return _question(kind, row.id, text, row).prompt()

    return Fact(
        id=row.id,
        prompt=prompt(row.prompt),
        target=row.target,
        subject=row.subject,
        rephrasings=(prompt(row.rephrasing),),
        locality=(prompt(row.locality),),
        passage_id=row.id,
        locality_answers=(row.locality_answer,),
    )
