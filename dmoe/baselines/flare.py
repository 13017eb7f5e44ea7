"""FLARE: before the model writes a sentence without confidence, retrieve again (a baseline).

This is the direct variant of Jiang et al. 2023, "Active Retrieval Augmented Generation". First,
passages are retrieved for the question. Then the answer is written sentence by sentence: a draft of
the next sentence is decoded. If one of its tokens has a probability below theta, the draft's
confident tokens become the query for new passages. These replace the passages in the prompt, and
the sentence is written again. A sentence that was written again in this way is final.

Deviation: the paper's drafts are written without passages in the prompt. Here the passages found
last stand in it, so that an accepted draft need not be written twice, and theta = 0 is RAG.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch

from backbone.decoding import (
    Continuation,
    Decoded,
    answer_text,
    greedy_continue,
    left_padded,
    score_answers,
)
from backbone.model import Backbone
from backbone.tokens import decode, encode_prompt
from dmoe.metrics import trigger_metrics
from plumbing.mounts import SettingValueError
from qa.method import AnsweringMethod, Prediction, QuestionInput
from qa.passages.retrieved import RetrievedPassages
from qa.passages.source import PassageSource
from qa.writing.sentences import sentence_starts


@dataclass
class FLARERow:
    """An answer that is being written.

    Attributes:
        input: The question, and the passages that stand in its prompt now.
        ids: The tokens that are final; in the end a stop token may be among them.
        queries: The query of each trigger. The first retrieval, for the question, is not among
            them.
        retrieved: The ids of the passages that each of these queries found.
    """

    input: QuestionInput
    ids: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    retrieved: list[list[str]] = field(default_factory=list)


class FLAREMethod(AnsweringMethod):
    """The frozen backbone with passages in its prompt that change while it decodes.

    Decoding is greedy, so each draft goes on to the end of the answer at once. Sentences that need
    no new passages are then decoded once, and each trigger costs one prompt and the rest of the
    answer.

    The likelihood of the right answer is measured after the question and the passages that stand in
    the prompt at the end. The right answer's tokens trigger nothing, because FLARE looks only at
    sentences that the model itself writes.

    The details of each prediction are:

    - ``tokens``, the number of the answer's tokens;
    - ``triggers``, the number of sentences that led to a retrieval;
    - ``queries``, the query of each trigger;
    - ``retrieved``, the ids of the passages that each query found.

    The passages found for the question itself are the prediction's ``passage_ids``.

    Args:
        backbone: The frozen model.
        source: Retrieves for the queries, as it did for the questions. None: `retrieve_from` names
            it later.
        theta: A sentence with a token of a lower probability triggers; 0: none does, 1: all do.
        beta: Tokens of a lower probability are left out of the query. If nothing is left, the
            question is asked again.
        rag: Always true, because the passages stand in the prompt.
        max_new_tokens: The most tokens that are decoded.

    Raises:
        ValueError: If a setting is out of range, or the source does not retrieve.
    """

    retrieves = True

    def __init__(
        self,
        backbone: Backbone,
        source: PassageSource | None = None,
        theta: float = 0.8,
        beta: float = 0.4,
        rag: bool = True,
        max_new_tokens: int = 32,
    ) -> None:
        super().__init__(backbone, rag, max_new_tokens)
        if not rag:
            raise ValueError(
                "method=flare puts passages in the prompt, got rag=false; leave rag=false out"
            )
        for name, value in (("theta", theta), ("beta", beta)):
            if not 0 <= value <= 1:
                raise SettingValueError(name, f"{name} must be in 0..1, got {value}")
        if source is not None:
            self.retrieve_from(source)
        self.theta = theta
        self.beta = beta

    def retrieve_from(self, source: PassageSource) -> None:
        """Take the source that is asked whenever a sentence triggers.

        Raises:
            ValueError: If the source does not retrieve.
        """
        if not isinstance(source, RetrievedPassages):
            raise ValueError(
                "method=flare retrieves while it decodes, got a source of passages that does not "
                f"({type(source).__name__}); set passages=retrieved (or oracle_negative)"
            )
        self.source = source

    @torch.inference_mode()
    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        """Answer a batch of questions, as `AnsweringMethod.answer` says."""
        if not inputs:
            return []
        rows = self.decode(inputs)
        prompts = [self.prompt(row.input) for row in rows]
        texts = [answer_text(self.backbone, row.ids) for row in rows]
        final = Decoded(texts, *left_padded(self.backbone, prompts, self.max_new_tokens))
        answers = [input.question.answers[0] for input in inputs]
        nll = score_answers(self.backbone, final, answers).tolist()
        return [Prediction(*each) for each in zip(texts, nll, map(_details, rows), strict=True)]

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Measure how often passages were retrieved.

        Returns:
            The metrics of `trigger_metrics`, where one trigger stands for a whole sentence, and
            ``retrievals_per_question``, which includes the first retrieval, for the question.
        """
        details = [prediction.details for prediction in predictions]
        triggers = sum(row["triggers"] for row in details)
        retrievals = {"retrievals_per_question": 1 + triggers / len(details)} if details else {}
        return trigger_metrics(details) | retrievals

    def decode(self, inputs: Sequence[QuestionInput]) -> list[FLARERow]:
        """Write the answers. The rows that must write a sentence again are decoded together.

        Args:
            inputs: N questions with the passages that were retrieved for them.

        Returns:
            N answers. None of them depends on the others.

        Raises:
            ValueError: If a prompt is longer than the backbone can read.
        """
        rows = [FLARERow(input) for input in inputs]
        running = rows
        while running:
            drafts = self._drafts(running)
            pairs = zip(running, drafts, strict=True)
            running = [row for row, draft in pairs if self._accept(row, draft)]
            self._retrieve(running)
        return rows

    def _drafts(self, rows: Sequence[FLARERow]) -> list[Continuation]:
        """Continue each answer to its end under its present prompt."""
        self.check_prompts([row.input for row in rows])
        prompts = [encode_prompt(self.backbone.tokenizer, self.prompt(row.input)) for row in rows]
        room = [self.max_new_tokens - len(row.ids) for row in rows]
        ids = [prompt + row.ids for prompt, row in zip(prompts, rows, strict=True)]
        drafts = greedy_continue(self.backbone, ids, max(room))
        return [
            Continuation(draft.ids[:left], draft.probabilities[:left])
            for draft, left in zip(drafts, room, strict=True)
        ]

    def _accept(self, row: FLARERow, draft: Continuation) -> bool:
        """Accept a draft up to its first doubtful sentence.

        Returns:
            True if there is such a sentence. Its query is then the last one in ``row.queries``.
        """
        sentences = self._sentences(row, draft)
        # After a trigger the first sentence has just been written again, so it is final.
        for positions in sentences[bool(row.queries) :]:
            if min(draft.probabilities[at] for at in positions) < self.theta:
                sure = [draft.ids[at] for at in positions if draft.probabilities[at] >= self.beta]
                query = self._decoded(sure).strip()
                row.queries.append(query or row.input.question.question)
                row.ids += draft.ids[: positions[0]]
                return True
        row.ids += draft.ids
        return False

    def _sentences(self, row: FLARERow, draft: Continuation) -> list[list[int]]:
        """List the positions of each sentence's tokens in a draft.

        The answer is one line. The tokens after it, and a stop token, belong to no sentence.
        """
        ids = draft.ids
        texts = [self._decoded(row.ids + ids[:end]) for end in range(len(ids) + 1)]
        # The space before a sentence belongs to its first token.
        starts = [len(texts[-1][:start].rstrip()) for start in sentence_starts(texts[-1])]
        sentences: dict[int, list[int]] = {}
        for at, (before, text) in enumerate(pairwise(texts)):
            if "\n" in before.lstrip() or ids[at] in self.backbone.stop_token_ids:
                break
            sentences.setdefault(bisect_left(starts, len(text)), []).append(at)
        return list(sentences.values())

    def _retrieve(self, rows: Sequence[FLARERow]) -> None:
        """Retrieve passages for each row's latest query; if none is found, the old ones stay."""
        if not rows:
            return
        queries = [replace(row.input.question, question=row.queries[-1]) for row in rows]
        for row, found in zip(rows, self.source.select(queries), strict=True):
            row.retrieved.append([passage.id for passage in found.passages])
            if found.passages:
                row.input = replace(row.input, selection=found)

    def _decoded(self, ids: Sequence[int]) -> str:
        return decode(self.backbone.tokenizer, ids)


def _details(row: FLARERow) -> dict[str, Any]:
    return {
        "tokens": len(row.ids),
        "triggers": len(row.queries),
        "queries": row.queries,
        "retrieved": row.retrieved,
    }
