"""Answers that are asked for once: what decides an answer is its key in a file.

An answer depends on the weights, on the prompt, on the passages that the method is given, and on
nothing else. So methods that change no weight answer a question again only if other passages are
found, and a run that was killed goes on behind the last batch of answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plumbing.batches import by_length
from plumbing.progress import progress
from plumbing.storage.log import EntryLog, cache_key
from qa.method import AnsweringMethod, QuestionInput
from qa.metrics import exact_match, f1_score, normalize_answer


class Answers:
    """The answers of one method in one run.

    Args:
        path: The file.
        batch_size: How many questions are answered at once.

    Attributes:
        asked: How many questions were answered in this process.
    """

    def __init__(self, path: Path, batch_size: int) -> None:
        self._log, self._batch_size = EntryLog(path), batch_size
        self.asked = 0

    def ask(
        self, method: AnsweringMethod, inputs: Sequence[QuestionInput], state: str
    ) -> list[dict[str, Any]]:
        """Answer questions, or look their answers up.

        Args:
            method: What answers.
            inputs: The questions with their passages.
            state: What the answers depend on besides: a hash of the weights.

        Returns:
            For each question the keys ``prediction``, ``em``, ``f1``, ``prefix``, ``nll``,
            ``token_accuracy`` and ``details``. An nll that is not finite is None.
        """
        keys = [_key(method, input, state) for input in inputs]
        found = {key: values[-1] for key, values in self._log.read(keys).items()}
        missing = {key: input for key, input in zip(keys, inputs, strict=True) if key not in found}
        method.check_prompts([*missing.values()])
        lengths = [len(method.prompt(input)) for input in missing.values()]
        # The longest come first, so what a killed run has answered leaves the other batches as
        # they were, and with them the rounding.
        batches = by_length(lengths, max_rows=self._batch_size, longest_first=True)
        order = [*missing]
        before = self.asked
        for batch in progress(batches, "Answering", len(order), lambda: self.asked - before):
            some = [order[i] for i in batch]
            answers = method.answer([missing[key] for key in some])
            entries = {
                key: {
                    "prediction": answer.text,
                    "nll": answer.nll if math.isfinite(answer.nll) else None,
                    "token_accuracy": answer.token_accuracy,
                    "details": answer.details,
                }
                for key, answer in zip(some, answers, strict=True)
            }
            self._log.append(entries.items())
            found |= entries
            self.asked += len(some)
        return [_scored(found[key], input) for key, input in zip(keys, inputs, strict=True)]


def _key(method: AnsweringMethod, input: QuestionInput, state: str) -> str:
    selection = input.selection
    return cache_key(
        state,
        method.prompt(input),
        input.question.question,
        input.question.answers[0],
        [asdict(passage) for passage in selection.passages] if method.uses_passages else [],
        list(selection.weights) if method.uses_passages else [],
    )


def _scored(answer: dict[str, Any], input: QuestionInput) -> dict[str, Any]:
    text, answers = answer["prediction"], list(input.question.answers)
    return {
        **answer,
        "em": exact_match(text, answers),
        "f1": f1_score(text, answers),
        "prefix": float(any(_begins(text, each) for each in answers)),
    }


def _begins(text: str, answer: str) -> bool:
    words, wanted = normalize_answer(text).split(), normalize_answer(answer).split()
    return bool(wanted) and words[: len(wanted)] == wanted
