"""Training examples of one split: question, gold passage and answer, as token ids."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from backbone.tokens import encode_answer, encode_prompt
from genpoe.training.collate import collate
from genpoe.training.negatives import choose_negatives
from genpoe.training.sampler import BatchSpec
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question
from qa.prompts import build_prompt, encode_passage
from retrieval.passage import Passage

log = logging.getLogger(__name__)


class TokenTable(Sequence[np.ndarray]):
    """Many token sequences in one array, which workers share. It takes four bytes per token."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        self.lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        self._ends = self.lengths.cumsum()
        self.flat = np.concatenate([np.empty(0, dtype=np.int32), *arrays])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        return self.flat[self._ends[index] - self.lengths[index] : self._ends[index]]


class Examples(Dataset[dict[str, Any]]):
    """The questions of one split that have a gold passage, each with its first gold passages.

    The answer is the first alias. The questions of some passages occur a second time, with the
    passage in the prompt; these form a group of their own. The examples are indexed by a
    `BatchSpec`, which gives the batch that `collate` makes of it, together with ``examples``
    (``[N]``, the indices of its questions), ``passages`` (``[P]``, those of its passages) and
    ``which`` (``[P]``: equal numbers are the same passage), and ``split``. With ``gold_passages``
    above 1, the further gold passages stand behind the first ones of all groups, and ``also``
    (``[G, gold_passages - 1]``) has their places in the batch for each of the G groups, -1 where a
    group has fewer. With ``rankings``, so do the passages that resemble them without an answer, and
    ``hard`` (``[G, negatives]``) has their places.

    Attributes:
        asked: The questions, some of them twice.

    Args:
        dataset: The questions and passages.
        split: The name of the split.
        tokenizer: The backbone's tokenizer.
        max_passage_tokens: Longer passages are cut to this many tokens.
        max_prompt_tokens: Questions are left out if prompt and answer together have more tokens.
        limit: The largest number of questions that are taken. They are all questions of randomly
            chosen passages; some questions about the last passage may be missing.
        seed: The seed of the random choices.
        rag_fraction: The share of the questions that also occur with their passage in the prompt.
            Deviation: the paper has none of these; the default is 0.
            They are chosen in the same way.
        gold_passages: The largest number of a question's gold passages that belong to it.
        rankings: The passages that a retriever found for each question, by their ids; see
            `genpoe.training.negatives`. None: there are no such passages in the batches.
        negatives: How many of these each group gets, at most.

    Raises:
        DataError: If no question is left, or if the rankings have none of them.
        ValueError: If the fraction is not between 0 and 1.
    """

    def __init__(
        self,
        dataset: QADataset,
        split: str,
        tokenizer: Any,
        max_passage_tokens: int,
        max_prompt_tokens: int,
        limit: int | None = None,
        seed: int = 0,
        rag_fraction: float = 0.0,
        gold_passages: int = 1,
        rankings: Mapping[str, Sequence[str]] | None = None,
        negatives: int = 1,
    ) -> None:
        if not 0 <= rag_fraction <= 1:
            raise SettingValueError(
                "rag_fraction", f"rag_fraction must be in 0..1, got {rag_fraction}"
            )
        self.split = split
        # The masks say what is padding, so that any token can stand there.
        self.pad_token_id: int = tokenizer.pad_token_id or 0
        questions = dataset.split(split)
        with_passage = [question for question in questions if question.passage_ids]
        chosen = sample_by_passage(with_passage, limit, seed)
        with_rag = round(rag_fraction * len(chosen))
        seen: list[tuple[Question, bool]] = [(question, False) for question in chosen]
        if with_rag:
            seen += [(question, True) for question in sample_by_passage(chosen, with_rag, seed + 1)]
        encoded = []
        for question, rag in seen:
            prompt = build_prompt(question.question, dataset.gold(question)[:1] if rag else ())
            answer = encode_answer(tokenizer, question.answers[0])
            encoded.append((encode_prompt(tokenizer, prompt), answer))
        fits = [len(prompt) + len(answer) <= max_prompt_tokens for prompt, answer in encoded]
        kept = [example for example, fit in zip(seen, fits, strict=True) if fit]
        _report(split, questions, with_passage, seen, kept, max_prompt_tokens)
        self.prompts = TokenTable(p for (p, _), fit in zip(encoded, fits, strict=True) if fit)
        self.answers = TokenTable(a for (_, a), fit in zip(encoded, fits, strict=True) if fit)
        place: dict[tuple[tuple[str, ...], bool], int] = {}
        self.groups: list[list[int]] = []
        golds: list[list[Passage]] = []
        for index, (question, rag) in enumerate(kept):
            key = (question.passage_ids[:gold_passages], rag)
            if key not in place:
                place[key] = len(self.groups)
                self.groups.append([])
                golds.append(dataset.gold(question)[:gold_passages])
            self.groups[place[key]].append(index)
        # The first ones of all groups, then the others; `_also` says whose these are.
        passages = [gold[0] for gold in golds]
        self._also = np.full((len(golds), gold_passages - 1), -1)
        for group, gold in enumerate(golds):
            for column, passage in enumerate(gold[1:]):
                self._also[group, column] = len(passages)
                passages.append(passage)
        self._hard = np.full((len(golds), 0 if rankings is None else negatives), -1)
        if rankings is not None:
            of_groups = [[kept[index][0] for index in group] for group in self.groups]
            found = choose_negatives(dataset, split, of_groups, rankings, negatives)
            # Those that are read anyway need not be read again, here and below.
            place_of = {passage.id: i for i, passage in reversed(list(enumerate(passages)))}
            for group, some in enumerate(found):
                for column, passage in enumerate(some):
                    if passage.id not in place_of:
                        place_of[passage.id] = len(passages)
                        passages.append(passage)
                    self._hard[group, column] = place_of[passage.id]
        numbers: dict[str, int] = {}
        self._which = np.array([numbers.setdefault(each.id, len(numbers)) for each in passages])
        read = [encode_passage(tokenizer, each, max_passage_tokens + 1) for each in passages]
        self.passages = TokenTable(row[:max_passage_tokens] for row in read)
        cut = sum(len(row) > max_passage_tokens for row in read)
        if cut:
            log.info(
                "%s: %d of %d passages are cut to %d tokens (max_passage_tokens)",
                *(split, cut, len(read), max_passage_tokens),
            )
        self.asked = [question for question, _ in kept]
        self._answers_differ = len({question.answers[0] for question in self.asked}) > 1

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each question's prompt and answer together."""
        return self.prompts.lengths + self.answers.lengths

    def check_differences(self) -> None:
        """Check that passages can be told apart, and warn if the questions have one answer only.

        Raises:
            DataError: If all passages are the same, as far as they are read.
        """
        if len({row.tobytes() for row in self.passages}) < 2:
            raise DataError(
                f"{self.split}: expected passages that differ, got {len(self.passages)} with the "
                f"same {self.passages.lengths[0]} tokens: from one text a hypernetwork cannot "
                "learn what passages say; add questions about other passages, or raise "
                "max_passage_tokens if they differ further behind"
            )
        if not self._answers_differ:
            log.warning(
                "%s: all %d questions have the same answer, which a hypernetwork can learn without "
                "reading a passage; the control with shuffled passages will show it",
                *(self.split, len(self)),
            )

    @property
    def digest(self) -> str:
        """A hash of all token ids. Two runs with the same digest see the same examples."""
        digest = hashlib.sha256()
        for table in (self.prompts, self.answers, self.passages):
            digest.update(table.lengths.tobytes() + table.flat.tobytes())
        digest.update(repr(self.groups).encode())
        for places in (self._also, self._hard):
            if places.size:
                digest.update(places.tobytes())
        return digest.hexdigest()

    def sequences(self) -> list[list[int]]:
        """The tokens that the backbone reads of each question: the prompt and most of the answer.

        The last token of the answer is left out, because it is only ever predicted.
        """
        return [
            [*prompt.tolist(), *answer.tolist()[:-1]]
            for prompt, answer in zip(self.prompts, self.answers, strict=True)
        ]

    def __getitem__(self, spec: BatchSpec) -> dict[str, Any]:
        indices = [index for chunk in spec.chunks for index in chunk.questions]
        rows = [row for row, chunk in enumerate(spec.chunks) for _ in chunk.questions]
        groups = [chunk.passage for chunk in spec.chunks]
        passages, tables = list(groups), {}
        for name, table in (("also", self._also), ("hard", self._hard)):
            if table.size:
                tables[name] = [[_place(each, passages) for each in row] for row in table[groups]]
        batch = collate(
            [(self.prompts[index], self.answers[index]) for index in indices],
            [self.passages[passage] for passage in passages],
            rows,
            spec.loss_weight,
            self.pad_token_id,
        )
        places: dict[str, Any] = {"examples": indices, "passages": passages, **tables}
        places["which"] = self._which[passages].tolist()
        places = {name: batch["rows"].new_tensor(each) for name, each in places.items()}
        return {**batch, **places, "split": self.split}


def _place(passage: int, passages: list[int]) -> int:
    """Where a passage stands among those of a batch, to which it is added if it is not there.

    -1 stands for none.
    """
    if passage < 0:
        return -1
    if passage not in passages:
        passages.append(int(passage))
    return passages.index(passage)


def sample_by_passage(
    questions: Sequence[Question], limit: int | None, seed: int
) -> list[Question]:
    """Choose passages at random, and take all of their questions until there are enough.

    Args:
        questions: Questions with gold passages.
        limit: The largest number of questions that are taken. None takes all of them.
        seed: The seed of the choice of passages.

    Returns:
        The questions that are taken, in their own order.

    Raises:
        ValueError: If the limit is not positive.
    """
    if limit is None:
        return list(questions)
    if limit < 1:
        raise SettingValueError(
            "limit", f"limit must be positive, got {limit}", "set {}, or None for all questions"
        )
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question.passage_ids[0], []).append(index)
    order = np.random.default_rng(seed).permutation(len(groups))
    members = list(groups.values())
    chosen = [index for group in order for index in members[group]][:limit]
    return [questions[index] for index in sorted(chosen)]


def _report(
    split: str,
    questions: Sequence[Question],
    with_passage: Sequence[Question],
    seen: Sequence[tuple[Question, bool]],
    kept: Sequence[tuple[Question, bool]],
    max_prompt_tokens: int,
) -> None:
    """Log how many questions were left out and why; raise an error if none is left."""
    plain, rag = ([q for q, with_rag in kept if with_rag is want] for want in (False, True))
    chosen = sum(not with_rag for _, with_rag in seen)
    without, long = len(questions) - len(with_passage), chosen - len(plain)
    counts = (
        f"{split}: {len(plain)} of {len(questions)} questions ({without} without a gold passage "
        f"and {long} longer than {max_prompt_tokens} tokens left out"
    )
    if chosen < len(with_passage):
        counts += f", a sample of {chosen} of the others"
    counts += ")"
    if chosen < len(seen):
        long = len(seen) - chosen - len(rag)
        counts += f", {len(rag)} also with the passage in the prompt ({long} too long)"
    if not kept:
        raise DataError(f"{counts}: nothing to train on; name gold passages in passage_ids")
    log.info("%s", counts)
