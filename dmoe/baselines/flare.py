"""FLARE: retrieve again where a sentence is about to be written without confidence (a baseline).

Jiang et al. 2023, "Active Retrieval Augmented Generation", in its direct variant. The question
retrieves first. Then, sentence by sentence: a draft is decoded, and where one of its tokens has a
probability below theta, the draft's confident tokens are the query for other passages, which take
the place of those in the prompt, and the sentence is written again. What was written with passages
of its own stands.

Deviation: the paper's drafts are written without passages in the prompt; here those found last are
in it, so that a draft that stands is not written twice, and theta = 0 is RAG.
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
    check_room,
    first_line,
    greedy_continue,
    left_padded,
    score_answers,
)
from backbone.model import Backbone
from backbone.tokens import encode_prompt
from dmoe.augmentation.sentences import sentence_starts
from dmoe.metrics import trigger_metrics
from plumbing.mounts import SettingValueError
from qa.method import AnsweringMethod, Prediction, QuestionInput
from qa.passages.retrieved import RetrievedPassages
from qa.passages.source import PassageSource


@dataclass
class FLARERow:
    """An answer that is being written.

    Attributes:
        input: The question, and the passages that stand in its prompt now.
        ids: The tokens that stand, the stop token among them at the end.
        queries: What was asked, trigger by trigger; without the first retrieval.
        retrieved: The ids of the passages found, likewise.
    """

    input: QuestionInput
    ids: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    retrieved: list[list[str]] = field(default_factory=list)


class FLAREMethod(AnsweringMethod):
    """The frozen backbone with passages in its prompt that change while it decodes.

    Decoding is greedy, so a draft goes on to the answer's end at once: sentences that need no other
    passages are decoded once, and each trigger costs one prompt and the rest of the answer.

    The likelihood of the right answer is that behind the question and the passages that stood in
    the prompt at the end. Its tokens trigger nothing: FLARE looks at sentences that the model
    writes, not at given ones.

    Each prediction's details are ``tokens``, the answer's; ``triggers``, the sentences that asked
    for passages; ``queries``, and ``retrieved``, the ids that each of them found. What the question
    itself found is the evaluation's ``passage_ids``.

    Args:
        backbone: The frozen model.
        source: Retrieves for the queries, as it did for the questions. None: `retrieve_from` names
            it later.
        theta: A sentence with a token of a lower probability triggers; 0: none does, 1: all do.
        beta: Tokens of a lower probability are left out of the query. If nothing is left, the
            question is asked again.
        rag: Always true, because the passages stand in the prompt.
        max_new_tokens: At most so many tokens are decoded.

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
                "method=flare puts passages in the prompt, got rag=false; leave it out"
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
        texts = [first_line(self._decoded(row.ids)) for row in rows]
        final = Decoded(texts, *left_padded(self.backbone, prompts, self.max_new_tokens))
        answers = [input.question.answers[0] for input in inputs]
        nll = score_answers(self.backbone, final, answers).tolist()
        return [Prediction(*each) for each in zip(texts, nll, map(_details, rows), strict=True)]

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """How often it retrieved.

        Returns:
            `trigger_metrics`, where one trigger stands for a whole sentence; and
            ``retrievals_per_question``, the first one, with the question, included.
        """
        details = [prediction.details for prediction in predictions]
        triggers = sum(row["triggers"] for row in details)
        retrievals = {"retrievals_per_question": 1 + triggers / len(details)} if details else {}
        return trigger_metrics(details) | retrievals

    def decode(self, inputs: Sequence[QuestionInput]) -> list[FLARERow]:
        """Write the answers; rows whose sentence is to be written again go on together.

        Args:
            inputs: N questions with the passages that each has retrieved.

        Returns:
            N answers, none of which depends on the others.

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
        """Each answer as it would go on under its present prompt, to its end."""
        prompts = [encode_prompt(self.backbone.tokenizer, self.prompt(row.input)) for row in rows]
        check_room(self.backbone, max(map(len, prompts)), self.max_new_tokens)
        room = [self.max_new_tokens - len(row.ids) for row in rows]
        ids = [prompt + row.ids for prompt, row in zip(prompts, rows, strict=True)]
        drafts = greedy_continue(self.backbone, ids, max(room))
        return [
            Continuation(draft.ids[:left], draft.probabilities[:left])
            for draft, left in zip(drafts, room, strict=True)
        ]

    def _accept(self, row: FLARERow, draft: Continuation) -> bool:
        """Accept a draft up to its first doubtful sentence; whether there is one, and its query."""
        sentences = self._sentences(row, draft)
        for positions in sentences[bool(row.queries) :]:  # the first was written for its passages
            if min(draft.probabilities[at] for at in positions) < self.theta:
                sure = [draft.ids[at] for at in positions if draft.probabilities[at] >= self.beta]
                query = self._decoded(sure).strip()
                row.queries.append(query or row.input.question.question)
                row.ids += draft.ids[: positions[0]]
                return True
        row.ids += draft.ids
        return False

    def _sentences(self, row: FLARERow, draft: Continuation) -> list[list[int]]:
        """Where in a draft the tokens of each sentence stand.

        The answer is one line: what stands below it belongs to no sentence, nor does a stop token.
        """
        ids = draft.ids
        texts = [self._decoded(row.ids + ids[:end]) for end in range(len(ids) + 1)]
        # The space before a sentence is of its first token.
        starts = [len(texts[-1][:start].rstrip()) for start in sentence_starts(texts[-1])]
        sentences: dict[int, list[int]] = {}
        for at, (before, text) in enumerate(pairwise(texts)):
            if "\n" in before.lstrip() or ids[at] in self.backbone.stop_token_ids:
                break
            sentences.setdefault(bisect_left(starts, len(text)), []).append(at)
        return list(sentences.values())

    def _retrieve(self, rows: Sequence[FLARERow]) -> None:
        """Other passages for each row's latest query; where none is found, those there stay."""
        if not rows:
            return
        queries = [replace(row.input.question, question=row.queries[-1]) for row in rows]
        for row, found in zip(rows, self.source.select(queries), strict=True):
            row.retrieved.append([passage.id for passage in found.passages])
            if found.passages:
                row.input = replace(row.input, selection=found)

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.backbone.tokenizer.decode(ids, skip_special_tokens=True)


def _details(row: FLARERow) -> dict[str, Any]:
    return {
        "tokens": len(row.ids),
        "triggers": len(row.queries),
        "queries": row.queries,
        "retrieved": row.retrieved,
    }
