"""How good augmentations are, as far as that can be measured without readers (DMoE sec. 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dmoe.augmentation.sources import Augmented
from dmoe.augmentation.tasks import PAIRS
from qa.metrics import f1_score
from retrieval.answers import holds_answer


class QualityReport:
    """Counts augmentations as they pass; `metrics` summarizes them."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._in_passage: list[bool] = []
        self._confirmed: list[bool] = []
        self._overlaps: list[float] = []

    def watch(self, augmented: Iterable[Augmented]) -> Iterable[Augmented]:
        """Pass augmentations on, and count each of them."""
        for each in augmented:
            self.add(each)
            yield each

    def add(self, augmented: Augmented) -> None:
        """Count one augmentation."""
        lesson = augmented.lesson
        text = lesson.passage.text
        self._rows.append(
            {
                "answers": augmented.answers,
                "pairs": len(lesson.pairs),
                "rewrite": lesson.rewrite is not None,
                "complete": lesson.rewrite is not None and len(lesson.pairs) >= PAIRS,
                "refused": bool(augmented.refusal),
            }
        )
        sure = len(lesson.pairs) - augmented.doubted
        self._confirmed += [True] * sure + [False] * augmented.doubted
        self._in_passage += [holds_answer(text, [answer]) for _, answer in lesson.pairs]
        if lesson.rewrite is not None:
            self._overlaps.append(f1_score(lesson.rewrite, [text]))

    def metrics(self) -> dict[str, float]:
        """Summarize what was counted.

        Returns:
            The counts ``passages``, ``pairs_per_passage`` and ``answers_per_passage``.

            In percent of the passages: ``parsed_rewrites`` (those with a rewrite), ``parsed_pairs``
            (those with three pairs or more), ``complete`` (those with both) and ``refused`` (those
            about which the writer refused a request).

            In percent of the pairs: ``answers_in_passage`` (those whose answer stands in the
            passage, compared by tokens) and ``confirmed`` (those that the model which wrote them
            did not doubt).

            ``rewrite_overlap``, the mean token F1 of a rewrite with its passage, in percent.

            Metrics for which there is nothing to count are left out.
        """
        if not self._rows:
            return {"passages": 0}
        enough = [row["pairs"] >= PAIRS for row in self._rows]
        shares: dict[str, Sequence[float]] = {
            "parsed_rewrites": [row["rewrite"] for row in self._rows],
            "parsed_pairs": enough,
            "complete": [row["complete"] for row in self._rows],
            "refused": [row["refused"] for row in self._rows],
            "answers_in_passage": self._in_passage,
            "confirmed": self._confirmed,
            "rewrite_overlap": self._overlaps,
        }
        return {
            "passages": len(self._rows),
            "pairs_per_passage": _mean([row["pairs"] for row in self._rows]),
            "answers_per_passage": _mean([row["answers"] for row in self._rows]),
            **{name: 100 * _mean(values) for name, values in shares.items() if values},
        }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
