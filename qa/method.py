"""The interface of all methods that answer questions, and two methods that inject nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from backbone.decoding import greedy_decode, score_answers
from backbone.model import Backbone
from qa.data.dataset import Question
from qa.passages.source import Selection
from qa.prompts import build_prompt
from retrieval.passage import Passage


@dataclass(frozen=True)
class QuestionInput:
    """A question, and the passages that a method may use to answer it."""

    question: Question
    selection: Selection = field(default_factory=Selection)


@dataclass(frozen=True)
class Prediction:
    """A method's answer to a question.

    Attributes:
        text: The answer, decoded to a natural stop and stripped.
        nll: The negative log-likelihood of the question's first acceptable answer with its end,
            in mean nats per token.
        details: Further plain values of the method for ``predictions.jsonl``.
    """

    text: str
    nll: float
    details: dict[str, Any] = field(default_factory=dict)


class AnsweringMethod:
    """Answers questions with a frozen backbone, and scores the right answer.

    A method that puts knowledge into the model overrides `injected`. Prompts, decoding and scoring
    are the same for all methods, so that nothing else differs between two rows of a table.

    Args:
        backbone: The frozen model.
        rag: True: the passages also stand in the prompt.
        max_new_tokens: The largest number of tokens that are decoded.

    Raises:
        ValueError: If ``max_new_tokens`` is not positive.
    """

    uses_passages: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, rag: bool = False, max_new_tokens: int = 32) -> None:
        if max_new_tokens < 1:
            raise ValueError(
                f"max_new_tokens must be positive, got {max_new_tokens}; set max_new_tokens=…"
            )
        self.backbone = backbone
        self.rag = rag
        self.max_new_tokens = max_new_tokens

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        """A context in which the backbone knows each input's passages; row i belongs to input i.

        By default nothing is injected.
        """
        return nullcontext()

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The method's own metrics of an evaluation, from the details of its predictions.

        By default there are none.
        """
        return {}

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Check that the questions' gold passages agree with what the method holds about them.

        A method checks this if it uses something that was made from passages before, such as a
        bank of experts. By default nothing is checked.

        Raises:
            ValueError: If they do not belong together.
        """

    def prompt(self, input: QuestionInput) -> str:
        """What the model reads: the question; with RAG, its passages stand before it."""
        passages = input.selection.passages if self.rag else ()
        return build_prompt(input.question.question, passages)

    @torch.inference_mode()
    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        """Answer a batch of questions.

        Decoding never sees the right answers. They are scored afterwards, with the same injection.

        Args:
            inputs: N questions with their passages.

        Returns:
            N predictions, in the order of the inputs. None of them depends on another input.
        """
        if not inputs:
            return []
        prompts = [self.prompt(input) for input in inputs]
        answers = [input.question.answers[0] for input in inputs]
        with self.injected(inputs):
            decoded = greedy_decode(self.backbone, prompts, self.max_new_tokens)
            nll = score_answers(self.backbone, decoded, answers).tolist()
        return [Prediction(*pair) for pair in zip(decoded.texts, nll, strict=True)]


class BaseMethod(AnsweringMethod):
    """The backbone alone; it sees no passage.

    Raises:
        ValueError: If ``rag`` is true.
    """

    uses_passages = False

    def __init__(self, backbone: Backbone, rag: bool = False, max_new_tokens: int = 32) -> None:
        if rag:
            raise ValueError(
                "method=base never sees a passage, got rag=true; use method=rag for passages in "
                "the prompt"
            )
        super().__init__(backbone, rag, max_new_tokens)


class RAGMethod(AnsweringMethod):
    """The backbone with the passages in its prompt.

    Raises:
        ValueError: If ``rag`` is false.
    """

    def __init__(self, backbone: Backbone, rag: bool = True, max_new_tokens: int = 32) -> None:
        if not rag:
            raise ValueError(
                "method=rag puts passages into the prompt, got rag=false; use method=base "
                "to answer without them"
            )
        super().__init__(backbone, rag, max_new_tokens)
