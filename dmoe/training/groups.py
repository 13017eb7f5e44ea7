"""Groups of passages whose experts are trained at the same time.

Lessons arrive as a stream. Those whose experts are already in the bank are left out. The others are
taken in windows. Each window is encoded, sorted and cut into groups that fit the limits; sorting
gives the experts of a group about equally many steps and labels. Only one window is in memory at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset

from dmoe.bank import Bank
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import Limits
from dmoe.training.instances import Encoded, encode_all
from dmoe.training.lessons import Lesson, check_formats
from dmoe.training.silence import PASSAGES
from retrieval.passage import Passage

_WINDOW = 16  # a window's size, in groups of the largest size


@dataclass(frozen=True)
class Group:
    """Passages, and what the expert of each is trained on.

    Attributes:
        passages: N passages.
        instances: The instances of each passage, at least one for each.
    """

    passages: list[Passage]
    instances: list[list[Encoded]]


class Groups(IterableDataset[Group]):
    """The groups that one of several workers still has to train.

    Args:
        lessons: Makes the stream of lessons, the same one for every worker.
        bank: The bank that the experts go into. A passage that has an expert there is left out,
            unless its text has changed since. A change in its lesson alone (other augmentations of
            the same text) is not noticed: use another bank then, or remove the experts first.
        tokenizer: The backbone's tokenizer.
        formats: The formats of the instances, as in `dmoe.training.lessons.Lesson.instances`.
        recipe: The training's settings.
        limits: The limits on memory.
        worker: This worker's number, from 0. It takes every ``workers``-th lesson, beginning with
            the lesson of this number.
        workers: How many workers there are.

    Attributes:
        skipped: How many lessons had their experts in the bank; counted while iterating.
        without: The ids of passages without any instance; collected while iterating.

    Raises:
        InstancesError: If a format is unknown.
    """

    def __init__(
        self,
        lessons: Callable[[], Iterable[Lesson]],
        bank: Bank,
        tokenizer: Any,
        formats: Sequence[str],
        recipe: Recipe,
        limits: Limits,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        check_formats(formats)
        self._lessons, self._bank, self._tokenizer = lessons, bank, tokenizer
        self._formats, self._recipe, self._limits = list(formats), recipe, limits
        self._worker, self._workers = worker, workers
        self.skipped = 0
        self.without: list[str] = []

    def share(self, lessons: int) -> int:
        """The number of lessons that this worker takes out of `lessons`."""
        return len(range(self._worker, lessons, self._workers))

    def __iter__(self) -> Iterator[Group]:
        self.skipped, self.without = 0, []
        mine = islice(self._lessons(), self._worker, None, self._workers)
        while window := list(islice(mine, _WINDOW * self._limits.group_size)):
            yield from self._groups(self._todo(window))

    def _todo(self, window: Sequence[Lesson]) -> Iterator[tuple[Passage, list[Encoded]]]:
        missing = {passage.id for passage in self._bank.missing(x.passage for x in window)}
        self.skipped += len(window) - len(missing)
        for lesson in window:
            if lesson.passage.id not in missing:
                continue
            instances = encode_all(
                self._tokenizer,
                lesson.instances(self._formats),
                self._recipe.loss,
                self._recipe.max_tokens,
            )
            if instances:
                yield lesson.passage, instances
            else:
                self.without.append(lesson.passage.id)

    def _groups(self, todo: Iterable[tuple[Passage, list[Encoded]]]) -> Iterator[Group]:
        passages: list[Passage] = []
        instances: list[list[Encoded]] = []
        tokens = 0
        for passage, each in sorted(todo, key=lambda item: (len(item[1]), _labels(item[1]))):
            tokens += _labels(each)
            full = len(passages) == self._limits.group_size
            if passages and (full or tokens > self._limits.group_tokens):
                yield Group(passages, instances)
                passages, instances, tokens = [], [], _labels(each)
            passages.append(passage)
            instances.append(each)
        if passages:
            yield Group(passages, instances)


def instances_of_others(
    lessons: Iterable[Lesson], tokenizer: Any, formats: Sequence[str], recipe: Recipe
) -> dict[str, list[Encoded]]:
    """Encode the instances at which experts of other passages are to be silent.

    They are those of the first `PASSAGES` lessons, whether or not these have experts already, so
    that a build that goes on has the same ones.

    Args:
        lessons: The stream of all lessons.
        tokenizer: The backbone's tokenizer.
        formats: As in `Groups`.
        recipe: The training's settings.

    Returns:
        The instances by passage; none if the recipe has no penalty.
    """
    if not recipe.silence:
        return {}
    found = {
        lesson.passage.id: encode_all(
            tokenizer, lesson.instances(formats), recipe.loss, recipe.max_tokens
        )
        for lesson in islice(lessons, PASSAGES)
    }
    return {id: instances for id, instances in found.items() if instances}


def _labels(instances: Iterable[Encoded]) -> int:
    return sum(len(instance.ids) - instance.first_label for instance in instances)
