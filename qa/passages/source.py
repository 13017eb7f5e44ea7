"""What a source of passages is: for each question, the passages that a method may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qa.data.dataset import Question
from retrieval.passage import Passage


@dataclass(frozen=True)
class Selection:
    """The passages that one question may use.

    Attributes:
        passages: K passages, best first; possibly none.
        weights: How much each counts (the relevance of GenPoE eq. 9); they sum to 1.

    Raises:
        ValueError: If there is not one weight a passage.
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
        """Passages that all count the same."""
        return cls(tuple(passages), (1 / len(passages),) * len(passages) if passages else ())


class PassageSource(Protocol):
    """Where the passages of questions come from."""

    def select(self, questions: Sequence[Question], k: int) -> list[Selection]:
        """At most ``k`` passages for each question, in the order of the questions."""
        ...

    def audit(
        self, questions: Sequence[Question], selections: Sequence[Selection], k: int
    ) -> dict[str, float]:
        """Check what was selected before it is used.

        Returns:
            What the evaluation's metrics should say about it, by default nothing.

        Raises:
            ValueError: If a selection is not what this source promises.
        """
        return {}


class NoPassages(PassageSource):
    """Nothing for every question: for methods that answer closed-book."""

    def select(self, questions: Sequence[Question], k: int) -> list[Selection]:
        """One empty selection a question."""
        return [Selection()] * len(questions)
