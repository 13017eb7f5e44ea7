"""Passages from retrieval: the best, and the best that hold no answer (GenPoE sec. 4.6)."""

from __future__ import annotations

from collections.abc import Sequence

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.dataset import Question
from qa.metrics import answer_words
from qa.passages.containment import answers_question, can_be_judged, is_yes_no
from qa.passages.gold_ids import gold_ids, warn_of_missing_gold
from qa.passages.source import PassageSource, Selection, check_k
from retrieval.answers import answer_tokens
from retrieval.passage import passage_text
from retrieval.pipeline import Pipeline
from retrieval.retriever import Hit


class OracleNegativeError(ValueError):
    """A passage that holds an answer was about to be used as one that holds none."""


class RetrievedPassages(PassageSource):
    """Gives each question the K best passages, weighted by the pipeline (GenPoE eq. 9).

    If fewer passages are found, the question gets fewer, and possibly none.

    Args:
        pipeline: Retrieves the passages and reranks them.
        k: How many passages a question gets, at most.

    Raises:
        SettingValueError: If ``k`` is not in 1 … N, the number of passages that the pipeline
            retrieves.
    """

    def __init__(self, pipeline: Pipeline, k: int = 1) -> None:
        check_k(k)
        n = pipeline.settings.n
        if k > n:
            raise SettingValueError(
                "k",
                f"k must be in 1 … {n}, the number of passages retrieved, got {k}",
                "set {} or pipeline.n",
            )
        self.pipeline = pipeline
        self.k = k

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        """Choose the first ``k`` of the pipeline's passages for each question."""
        warn_of_missing_gold(
            gold_ids(questions),
            self.pipeline.corpus,
            "the corpus",
            "a retrieved passage is not known as gold, not even where its text is that of a gold "
            "one; if it should be, give the corpus whose ids the data set's passage_ids name",
        )
        ranked = self.pipeline.rank([question.question for question in questions])
        return [self._selection(*pair) for pair in zip(questions, ranked, strict=True)]

    def audit(
        self, questions: Sequence[Question], selections: Sequence[Selection]
    ) -> dict[str, float]:
        """Count the questions that got fewer than ``k`` passages, and those that got none."""
        counts = [len(selection.passages) for selection in selections]
        return {
            "n_fewer_than_k": sum(count < self.k for count in counts),
            "n_without_passage": counts.count(0),
        }

    def _selection(self, question: Question, ranked: Sequence[Hit]) -> Selection:
        kept = self._keep(question, ranked)
        return Selection(self.pipeline.passages(kept), self.pipeline.weights(kept))

    def _keep(self, question: Question, ranked: Sequence[Hit]) -> Sequence[Hit]:
        return ranked[: self.k]


class OracleNegatives(RetrievedPassages):
    """Gives each question the K best passages that hold no answer in title or text (sec. 4.6).

    They are chosen among the N passages that the pipeline ranks. For yes/no questions, every
    passage that is not gold counts as negative; `qa.passages.containment` says why.
    """

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        """Choose the first ``k`` passages without an answer for each question.

        Raises:
            DataError: If it cannot be said whether a passage holds a question's answer.
        """
        unclear = [question.id for question in questions if not can_be_judged(question)]
        if unclear:
            raise DataError(
                f"passages=oracle_negative needs answers that a passage can hold, or gold "
                f"passages; {len(unclear)} of {len(questions)} questions have neither, such as "
                f"{unclear[0]!r} (yes or no); use passages=retrieved or passages=shuffled"
            )
        return super().select(questions)

    def audit(
        self, questions: Sequence[Question], selections: Sequence[Selection]
    ) -> dict[str, float]:
        """Check that no passage holds an answer, and count as `RetrievedPassages` does.

        Raises:
            OracleNegativeError: If a passage holds an answer.
        """
        check_oracle_negatives(questions, selections)
        return super().audit(questions, selections)

    def _keep(self, question: Question, ranked: Sequence[Hit]) -> Sequence[Hit]:
        kept: list[Hit] = []
        for hit in ranked:
            (passage,) = self.pipeline.passages([hit])
            if not answers_question(question, passage):
                kept.append(hit)
                if len(kept) == self.k:
                    break
        return kept


def check_oracle_negatives(questions: Sequence[Question], selections: Sequence[Selection]) -> None:
    """Check that no passage holds an answer, in another way than the one used to choose them.

    Raises:
        OracleNegativeError: If a passage holds an answer; the message names the question, the
            passage and the answer.
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
    """Name an answer whose tokens stand one after another in a text; None if there is none.

    The tokens are those of top-K accuracy, and after that those of exact match.
    """
    for split in (answer_tokens, answer_words):
        tokens = split(text)
        for answer in answers:
            wanted = split(answer)
            starts = range(len(tokens) - len(wanted) + 1) if wanted else ()
            if any(tokens[start : start + len(wanted)] == wanted for start in starts):
                return f"holds the answer {answer!r}"
    return None
