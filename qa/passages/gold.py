"""The gold passages of each question, and as a control those of another question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question, squeeze
from qa.passages.source import PassageSource, Selection, check_k


class GoldPassages(PassageSource):
    """Gives each question the first k of its own gold passages, with equal weights.

    Args:
        dataset: The data set that holds the passages.
        k: How many passages a question gets, at most; one that has fewer gets all of them.

    Raises:
        SettingValueError: If ``k`` is not a whole number of at least 1.
    """

    def __init__(self, dataset: QADataset, k: int = 1) -> None:
        check_k(k)
        self.dataset = dataset
        self.k = k

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        """Choose the first ``k`` gold passages of each question.

        Raises:
            DataError: If a question has no gold passage.
        """
        _check(self.dataset, questions)
        return [Selection.uniform(self.dataset.gold(question)[: self.k]) for question in questions]


class ShuffledPassages(PassageSource):
    """Gives each question the gold passages of another one: a control that shows if they matter.

    The questions of an evaluation exchange their passages, and no two get those of the same
    question. So over all questions the passages are those of `GoldPassages`, but in the wrong
    places. A question never gets one of its own gold passages. Sometimes such an exchange is not
    possible, because nearly all questions share one passage or there is only one question. Then
    the questions that are left over get the passages of any question of the data set. So do all
    questions of a split where none has a gold passage, such as probes of general knowledge.

    Args:
        dataset: The data set that holds the passages.
        seed: The seed of the exchange; equal seeds and questions give every method the same
            passages.
        k: How many passages a question gets, at most.

    Raises:
        SettingValueError: If ``k`` is not a whole number of at least 1.
    """

    def __init__(self, dataset: QADataset, seed: int = 0, k: int = 1) -> None:
        check_k(k)
        self.dataset = dataset
        self.seed = seed
        self.k = k

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        """Choose the first ``k`` gold passages of another question for each question.

        Raises:
            DataError: If some questions have a gold passage and others have none, or if no other
                question can lend a question any.
        """
        if any(question.passage_ids for question in questions):
            _check(self.dataset, questions)
        random = np.random.default_rng(self.seed)
        lenders = self._lenders(questions, random)
        return [Selection.uniform(self.dataset.gold(lender)[: self.k]) for lender in lenders]

    def _lenders(
        self, questions: Sequence[Question], random: np.random.Generator
    ) -> list[Question]:
        gold = [self._texts(question) for question in questions]
        lender = _derange(gold, random)
        return [
            questions[lender[i]]
            if gold[lender[i]] and gold[i].isdisjoint(gold[lender[i]])
            else self._any_lender(question, random)
            for i, question in enumerate(questions)
        ]

    def _texts(self, question: Question) -> frozenset[str]:
        """The texts of the gold passages, because the same text may have two ids."""
        return frozenset(squeeze(passage.text) for passage in self.dataset.gold(question))

    def _any_lender(self, question: Question, random: np.random.Generator) -> Question:
        own = self._texts(question)
        pool = [
            other
            for split in self.dataset.splits.values()
            for other in split
            if other.passage_ids and own.isdisjoint(self._texts(other))
        ]
        if not pool:
            raise DataError(
                f"passages=shuffled needs another question whose gold passages are not those of "
                f"question {question.id!r}, but data set {self.dataset.name!r} has none; use a "
                "data set with more than one gold passage"
            )
        return pool[random.integers(len(pool))]


def _check(dataset: QADataset, questions: Sequence[Question]) -> None:
    without = [question.id for question in questions if not question.passage_ids]
    if without:
        raise DataError(
            f"passages=gold and passages=shuffled need a gold passage for every question, but "
            f"{len(without)} of {len(questions)} questions of data set {dataset.name!r} have none, "
            f"such as {without[0]!r}; leave them out, or use another source of passages"
        )


def _derange(gold: Sequence[frozenset[str]], random: np.random.Generator) -> list[int]:
    """Draw a random permutation that sends each question to one with no gold passage in common.

    Args:
        gold: The gold passages of each question.
        random: The generator that the permutation is drawn from.

    Returns:
        For each question the index of another one. If no swap could help a question, the two have
        passages in common.
    """
    image = random.permutation(len(gold)).tolist()
    for i in range(len(gold)):
        if gold[i].isdisjoint(gold[image[i]]):
            continue
        for j in random.permutation(len(gold)).tolist():
            if gold[i].isdisjoint(gold[image[j]]) and gold[j].isdisjoint(gold[image[i]]):
                image[i], image[j] = image[j], image[i]
                break
    return image
