r"""Worked examples that stand in the prompt before each question (few-shot prompts).

They are an option of all methods: what stands in front of the question is the same for all of them.
The examples are drawn from the training questions, or read from a file, whose answers may think
aloud as those of DMoE's appendix C.2 do, and end with ``So the answer is …``. Then what follows
these words is the answer that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError, read_jsonl, text_field
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import sample
from qa.prompts import build_prompt

CONCLUSION = "So the answer is "  # DMoE appendix C.2


@dataclass(frozen=True)
class Shots:
    """Worked examples.

    Attributes:
        text: What stands before the passages and the question of every prompt.
        concludes: Whether the answers of the examples end with their `CONCLUSION`.
    """

    text: str = ""
    concludes: bool = False

    def answer(self, decoded: str) -> str:
        """The answer in what a method wrote: after the `CONCLUSION`, if the examples have one."""
        if not self.concludes or CONCLUSION not in decoded:
            return decoded
        return decoded.rpartition(CONCLUSION)[2].strip().removesuffix(".")


def open_shots(count: int, path: str | None, dataset: QADataset, seed: int) -> Shots:
    """Draw worked examples from the training questions, or read them.

    Args:
        count: How many are drawn, with their first answers; 0: none.
        path: A file of JSON lines with ``question`` and ``answer``; None: there is none.
        dataset: The data set whose split ``train`` they are drawn from.
        seed: The seed of the draw.

    Raises:
        SettingValueError: If both are given, or the count is negative.
        DataError: If the file is malformed or empty, or there are fewer training questions.
    """
    if count < 0:
        raise SettingValueError("shots", f"shots must be 0 or more, got {count}")
    if path is not None:
        if count:
            raise SettingValueError(
                "shots", f"the examples are those of examples={path}, got shots={count}"
            )
        return _read(Path(path).expanduser())
    if not count:
        return Shots()
    questions = dataset.split("train")
    if len(questions) < count:
        raise DataError(
            f"shots={count} needs as many training questions, data set {dataset.name!r} has "
            f"{len(questions)}; set shots"
        )
    return Shots(_text(sample(questions, count, seed)))


def _text(questions: Sequence[Question]) -> str:
    return "".join(f"{one.prompt()} {one.answers[0]}\n\n" for one in questions)


def _read(path: Path) -> Shots:
    found = []
    for number, row in read_jsonl(path):
        question, answer = (
            text_field(row, key, f"{path}:{number}") for key in ("question", "answer")
        )
        found.append((question, answer))
    if not found:
        raise DataError(f"{path}: expected a line for each worked example, found none")
    text = "".join(f"{build_prompt(question)} {answer}\n\n" for question, answer in found)
    return Shots(text, all(CONCLUSION in answer for _, answer in found))
