"""Each question's own passages, and the control: those of another question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question, squeeze
from qa.passages.source import PassageSource, Selection


class GoldPassages(PassageSource):
    """Each question's own gold passages, the first k of them, equally weighted.

    Args:
        dataset: Where the passages stand.
    """

    def __init__(self, dataset: QADataset) -> None:
        self.dataset = dataset

    def select(self, questions: Sequence[Question], k: int) -> list[Selection]:
        """The first ``k`` gold passages of each question.

        Raises:
            DataError: If a question has no gold passage.
        """
        _check(self.dataset, questions, k)
        return [Selection.uniform(self.dataset.gold(question)[:k]) for question in questions]


class ShuffledPassages(PassageSource):
    """The gold passages of another question: the control that shows whether they matter.

    Each question gets those of another one of the same evaluation, and no two get the same one's,
    so that over all questions the passages are those of `GoldPassages`, only in the wrong places.
    A question never gets a passage that is among its own gold ones. Where no such exchange is
    possible (nearly all questions share one passage, or there is only one question), what is left
    over gets the passages of any question of the data set.

    Args:
        dataset: Where the passages stand.
        seed: Of the exchange; equal seeds and questions give every method the same passages.
    """

    def __init__(self, dataset: QADataset, seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed

    def select(self, questions: Sequence[Question], k: int) -> list[Selection]:
        """The first ``k`` gold passages of another question each.

        Raises:
            DataError: If a question has no gold passage, or no other question can lend it any.
        """
        _check(self.dataset, questions, k)
        random = np.random.default_rng(self.seed)
        lenders = self._lenders(questions, random)
        return [Selection.uniform(self.dataset.gold(lender)[:k]) for lender in lenders]

    def _lenders(
        self, questions: Sequence[Question], random: np.random.Generator
    ) -> list[Question]:
        gold = [self._texts(question) for question in questions]
        lender = _derange(gold, random)
        return [
            questions[lender[i]]
            if gold[i].isdisjoint(gold[lender[i]])
            else self._any_lender(question, random)
            for i, question in enumerate(questions)
        ]

    def _texts(self, question: Question) -> frozenset[str]:
        """Passages by what they say: one text may stand under two ids."""
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


def _check(dataset: QADataset, questions: Sequence[Question], k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1 passage a question, got {k}; set k=…")
    without = [question.id for question in questions if not question.passage_ids]
    if without:
        raise DataError(
            f"passages=gold and passages=shuffled need a gold passage for every question, but "
            f"{len(without)} of {len(questions)} questions of data set {dataset.name!r} have none, "
            f"such as {without[0]!r}; leave them out, or use another source of passages"
        )


def _derange(gold: Sequence[frozenset[str]], random: np.random.Generator) -> list[int]:
    """A random permutation under which gold sets are disjoint from their image, as far as may be.

    Args:
        gold: The gold passages of each question.
        random: Where the permutation comes from.

    Returns:
        For each question the index of another one; where no swap could help, one that overlaps.
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
