"""The interface of all methods that answer questions, and the two methods that inject nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from backbone.decoding import greedy_decode, positions, read_answers
from backbone.lora.adapter import LoraAdapter
from backbone.model import Backbone
from backbone.read_prompts import ReadPrompts
from backbone.tokens import encode_prompt
from plumbing.mounts import SettingValueError
from qa.data.dataset import Question
from qa.passages.source import PassageSource, Selection
from retrieval.passage import Passage, passage_text


@dataclass(frozen=True)
class QuestionInput:
    """A question, and the passages that a method may use to answer it.

    Attributes:
        question: The question.
        selection: The passages of the method.
        prompt_selection: The passages that stand in the prompt with RAG, if they are others, as a
            control.
    """

    question: Question
    selection: Selection = field(default_factory=Selection)
    prompt_selection: Selection | None = None

    @property
    def prompt_passages(self) -> tuple[Passage, ...]:
        """The passages that stand in the prompt with RAG."""
        return (self.prompt_selection or self.selection).passages


@dataclass(frozen=True)
class Prediction:
    """The answer of a method to one question.

    Attributes:
        text: The answer, freely decoded to a natural stop, without white space around it.
        nll: The negative log-likelihood of the question's first acceptable answer and of its end:
            the mean over its tokens, in nats.
        details: What else the method says about the answer, for ``predictions.jsonl``: plain
            values.
        token_accuracy: The share of the first answer's tokens that are the most likely ones when
            those before them are given, 0 to 1; None if the method does not say it. It is for
            comparison with papers that score this way: it leaks the answer's content and length.
    """

    text: str
    nll: float
    details: dict[str, Any] = field(default_factory=dict)
    token_accuracy: float | None = None


class AnsweringMethod:
    """Answers questions with a frozen backbone, and scores the right answer.

    A method that puts knowledge into the model overrides `injected`. Prompts, decoding and scoring
    are the same for all methods, so that nothing else differs between two rows of a table.

    Args:
        backbone: The frozen model.
        rag: True: the passages also stand in the prompt.
        max_new_tokens: The largest number of tokens that are decoded.

    Attributes:
        uses_passages: Whether the method is given passages with each question. An evaluation
            selects none for a method that is not.
        retrieves: Whether the method itself asks for passages while it answers. An evaluation
            then hands it the source of passages, by `retrieve_from`, before the first question.
        before: What stands before every prompt, such as worked examples (`qa.shots`); by default
            there is nothing.
        read_prompts: Prompts that need not be read again. Methods may share them that change
            nothing of the backbone below its final FFN's output. By default there are none.
        in_order: Whether questions are answered in their order, because what is done for one of
            them stays for the next.

    Raises:
        SettingValueError: If ``max_new_tokens`` is not positive.
    """

    uses_passages: ClassVar[bool] = True
    retrieves: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, rag: bool = False, max_new_tokens: int = 32) -> None:
        if max_new_tokens < 1:
            raise SettingValueError(
                "max_new_tokens", f"max_new_tokens must be positive, got {max_new_tokens}"
            )
        self.backbone = backbone
        self.rag = rag
        self.max_new_tokens = max_new_tokens
        self.before = ""
        self.read_prompts: ReadPrompts | None = None
        self.in_order = False

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        """Make a context in which row i of a batch knows the passages of input i.

        By default nothing is injected.
        """
        return nullcontext()

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute metrics of the method's own from the details of an evaluation's predictions.

        By default there are none.
        """
        return {}

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Check the gold passages of the questions against what was made of them before.

        By default nothing was made of them, and nothing is checked.

        Raises:
            ValueError: If they do not belong together.
        """

    def retrieve_from(self, source: PassageSource) -> None:
        """Take the source from which the method itself retrieves, if it `retrieves`.

        Raises:
            ValueError: If the method cannot use this source. By default it can use none.
        """
        raise ValueError(
            f"{type(self).__name__} does not retrieve by itself, got {type(source).__name__}; "
            "select its passages beforehand"
        )

    def prompt(self, input: QuestionInput) -> str:
        """Write what the model reads: the question, after its passages if there is RAG."""
        passages = input.prompt_passages if self.rag else ()
        return f"{self.before}{input.question.prompt(passages)}"

    def check_prompts(self, inputs: Sequence[QuestionInput]) -> None:
        """Check that each prompt leaves room for ``max_new_tokens`` in the backbone's positions.

        Raises:
            ValueError: If one does not; the message names the question and its longest passage.
        """
        limit = positions(self.backbone)
        if limit is None:
            return
        sizes = [self._tokens(self.prompt(input)) for input in inputs]
        too_long = [i for i, size in enumerate(sizes) if size + self.max_new_tokens > limit]
        if too_long:
            worst = max(too_long, key=sizes.__getitem__)
            others = f" (and so are {len(too_long) - 1} others)" if len(too_long) > 1 else ""
            raise ValueError(
                f"the prompt of question {inputs[worst].question.id!r} is too long{others}: "
                f"{sizes[worst]} tokens and {self.max_new_tokens} new ones exceed the {limit} "
                f"positions of {self.backbone.name}; {self._shorten(inputs[worst])}, or choose a "
                "backbone that reads more"
            )

    def _shorten(self, input: QuestionInput) -> str:
        """Say what to do about a prompt that is too long."""
        passages = input.prompt_passages if self.rag else ()
        sizes = {passage.id: self._tokens(passage_text(passage)) for passage in passages}
        longest = max(sizes, key=sizes.__getitem__, default="")
        if not sizes or self._tokens(input.question.question) > sizes[longest]:
            return "shorten the question or leave it out"
        fewer = f"use fewer passages (k={len(sizes) - 1} or less), or " if len(sizes) > 1 else ""
        return f"{fewer}split the passage {longest!r}, which has {sizes[longest]} tokens"

    def _tokens(self, text: str) -> int:
        return len(encode_prompt(self.backbone.tokenizer, text))

    @torch.inference_mode()
    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        """Answer a batch of questions.

        Decoding never sees the right answers. They are scored afterwards, under the same injection.

        Args:
            inputs: N questions with their passages.

        Returns:
            N predictions, in the order of the inputs. None of them depends on another input.
        """
        if not inputs:
            return []
        prompts = [self.prompt(input) for input in inputs]
        answers = [input.question.answers[0] for input in inputs]
        read = {} if self.read_prompts is None else {"cache": self.read_prompts.take(prompts)}
        with self.injected(inputs):
            decoded = greedy_decode(self.backbone, prompts, self.max_new_tokens, **read)
            scores = read_answers(self.backbone, decoded, answers)
        if self.read_prompts is not None:
            self.read_prompts.keep(prompts, decoded)
        return [
            Prediction(text, nll, token_accuracy=right)
            for text, nll, right in zip(
                decoded.texts, scores.nll.tolist(), scores.token_accuracy.tolist(), strict=True
            )
        ]


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
    """The backbone with the passages in its prompt, and with an adapter if one is named.

    An adapter that has learnt to answer behind passages of the training split knows the form of an
    answer and nothing of the passages of the evaluation. With it, RAG is the baseline of methods
    that were trained on answers.

    Args:
        backbone: The frozen model.
        rag: Always true.
        max_new_tokens: The most tokens that are decoded.
        adapter_dir: The folder of an adapter, as ``scripts/train_sft_lora.py`` writes it; None: the
            backbone alone.

    Raises:
        ValueError: If ``rag`` is false.
        AdapterError: If the adapter is missing or damaged, or belongs to another backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        rag: bool = True,
        max_new_tokens: int = 32,
        adapter_dir: str | Path | None = None,
    ) -> None:
        if not rag:
            raise ValueError(
                "method=rag puts passages into the prompt, got rag=false; use method=base "
                "to answer without them"
            )
        super().__init__(backbone, rag, max_new_tokens)
        self._adapter = LoraAdapter.load(adapter_dir, backbone) if adapter_dir else None

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        """Attach the adapter, which is the same for every row of a batch."""
        return self._adapter.attached() if self._adapter else nullcontext()
