"""Passages from retrieval: the best ones, and the best that hold no answer (GenPoE sec. 4.6)."""

from __future__ import annotations

from collections.abc import Sequence

from plumbing.storage.jsonl import DataError
from qa.data.dataset import Question
from qa.metrics import normalize_answer
from qa.passages.containment import answers_question, can_be_judged, is_yes_no
from qa.passages.source import PassageSource, Selection
from retrieval.answers import answer_tokens
from retrieval.passage import passage_text
from retrieval.pipeline import Pipeline
from retrieval.retriever import Hit


class OracleNegativeError(ValueError):
    """A passage that holds an answer was about to be used as one that holds none."""


class RetrievedPassages(PassageSource):
    """The K best passages, weighted as the pipeline says (GenPoE sec. 3.3.2, eq. 9).

    Where fewer are found the question gets fewer, and none where none is found.

    Args:
        pipeline: What retrieves and reranks.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def select(self, questions: Sequence[Question], k: int) -> list[Selection]:
        """The first ``k`` of the pipeline's passages for each question.

        Raises:
            ValueError: If ``k`` is not in 1 … N.
        """
        n = self.pipeline.settings.n
        if not 1 <= k <= n:
            raise ValueError(
                f"k must be in 1 … {n}, the number of passages retrieved, got {k}; set k=… or "
                "pipeline.n"
            )
        ranked = self.pipeline.rank([question.question for question in questions])
        return [self._selection(*pair, k) for pair in zip(questions, ranked, strict=True)]

    def audit(
        self, questions: Sequence[Question], selections: Sequence[Selection], k: int
    ) -> dict[str, float]:
        """How many questions got fewer than ``k`` passages, and how many got none."""
        counts = [len(selection.passages) for selection in selections]
        return {
            "n_fewer_than_k": sum(count < k for count in counts),
            "n_without_passage": counts.count(0),
        }

    def _selection(self, question: Question, ranked: Sequence[Hit], k: int) -> Selection:
        kept = self._keep(question, ranked, k)
        return Selection(self.pipeline.passages(kept), self.pipeline.weights(kept))

    def _keep(self, question: Question, ranked: Sequence[Hit], k: int) -> Sequence[Hit]:
        return ranked[:k]


class OracleNegatives(RetrievedPassages):
    """The K best passages of which none holds an answer, in its title or its text (sec. 4.6).

    They are looked for among the N that the pipeline ranks. Of a yes/no question those are negative
    that are not gold; see `qa.passages.containment`.
    """

    def select(self, questions: Sequence[Question], k: int) -> list[Selection]:
        """The first ``k`` for each question.

        Raises:
            DataError: If it cannot be said whether a passage holds a question's answer.
            ValueError: If ``k`` is not in 1 … N.
        """
        unclear = [question.id for question in questions if not can_be_judged(question)]
        if unclear:
            raise DataError(
                f"passages=oracle_negative needs answers that a passage can hold, or gold "
                f"passages; {len(unclear)} of {len(questions)} questions have neither, such as "
                f"{unclear[0]!r} (yes or no); use passages=retrieved or passages=shuffled"
            )
        return super().select(questions, k)

    def audit(
        self, questions: Sequence[Question], selections: Sequence[Selection], k: int
    ) -> dict[str, float]:
        """The counts of `RetrievedPassages`, if no passage holds an answer.

        Raises:
            OracleNegativeError: If one does.
        """
        check_oracle_negatives(questions, selections)
        return super().audit(questions, selections, k)

    def _keep(self, question: Question, ranked: Sequence[Hit], k: int) -> Sequence[Hit]:
        kept: list[Hit] = []
        for hit in ranked:
            (passage,) = self.pipeline.passages([hit])
            if not answers_question(question, passage):
                kept.append(hit)
                if len(kept) == k:
                    break
        return kept


def check_oracle_negatives(questions: Sequence[Question], selections: Sequence[Selection]) -> None:
    """Check that no passage holds an answer, by another way than the one they were chosen by.

    Raises:
        OracleNegativeError: If one does; the message names question, passage and answer.
    """
    for question, selection in zip(questions, selections, strict=True):
        for passage in selection.passages:
            if is_yes_no(question):
                found = "is a gold passage" if passage.id in question.passage_ids else None
            else:
                found = _answer_in(passage_text(passage), question.answers)
            if found is not None:
                raise OracleNegativeError(
                    f"the passage {passage.id!r} was selected as an oracle negative of question "
                    f"{question.id!r}, but it {found}; this is a bug, please report it"
                )


def _answer_in(text: str, answers: Sequence[str]) -> str | None:
    """Names an answer whose tokens follow one another in a text, by comparing lists of them.

    Tokens are those of top-K accuracy, and those of exact match.
    """
    for split in (answer_tokens, lambda part: normalize_answer(part).split()):
        tokens = split(text)
        for answer in answers:
            wanted = split(answer)
            starts = range(len(tokens) - len(wanted) + 1) if wanted else ()
            if any(tokens[start : start + len(wanted)] == wanted for start in starts):
                return f"holds the answer {answer!r}"
    return None
