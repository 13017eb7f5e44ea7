"""What a source of passages is: it gives each question the passages that a method may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plumbing.mounts import SettingValueError
from qa.data.dataset import Question
from retrieval.passage import Passage


@dataclass(frozen=True)
class Selection:
    """The passages that one question may use.

    Attributes:
        passages: K passages, the best one first. There may be none.
        weights: How much each passage counts (the relevance of GenPoE eq. 9). They sum to 1.

    Raises:
        ValueError: If the numbers of passages and of weights differ.
    """

    passages: tuple[Passage, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.passages) != len(self.weights):
            raise ValueError(
                f"a selection needs one weight for each passage, got {len(self.passages)} "
                f"passages and {len(self.weights)} weights"
            )

    @classmethod
    def uniform(cls, passages: Sequence[Passage]) -> Selection:
        """Make a selection of passages that all count the same."""
        return cls(tuple(passages), (1 / len(passages),) * len(passages) if passages else ())


class PassageSource(Protocol):
    """Where the passages of questions come from.

    A source is made with the number ``k`` of passages that it gives each question.
    """

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        """Choose at most ``k`` passages for each question, in the order of the questions."""
        ...

    def audit(
        self, questions: Sequence[Question], selections: Sequence[Selection]
    ) -> dict[str, float]:
        """Check what was selected before it is used.

        Returns:
            What the metrics of an evaluation should say about the selections. By default this is
            nothing.

        Raises:
            ValueError: If a selection is not what this source promises.
        """
        return {}


class NoPassages(PassageSource):
    """A source that gives no passages, for methods that answer closed-book."""

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        """Return one empty selection for each question."""
        return [Selection()] * len(questions)


def check_k(k: Any) -> None:
    """Check the number of passages that a question gets.

    A number that is larger than the number of a question's gold passages is no error: the question
    then gets all that it has.

    Raises:
        SettingValueError: If it is not a whole number of at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise SettingValueError("k", f"k must be a whole number of at least 1, got {k!r}")
