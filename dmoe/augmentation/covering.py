"""Augmentation that covers a passage: pairs about all of its spans, within a budget.

Three pairs a passage leave out most of what people ask (DMoE sec. 4.3 asks for three). Here every
span that `qa.writing.spans` finds is the answer of a pair, in several phrasings. Pairs that the
writer confirms come first, and a budget in tokens says where the list ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from dmoe.augmentation.sources import Augmented
from dmoe.training.lessons import Lesson
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from plumbing.stopwatch import Stopwatch
from qa.writing.asking import Asker
from qa.writing.chatter import without_thinking
from qa.writing.parse import MalformedAnswerError, parse_question
from qa.writing.prompts import BLANK, SMALL_ANSWER, SMALL_QUESTION
from qa.writing.sentences import Span
from qa.writing.spans import covering_spans
from qa.writing.writer import Writer, WriterError, WritingRequest
from retrieval.answers import answer_tokens, holds_answer
from retrieval.passage import Passage

log = logging.getLogger(__name__)

PHRASINGS = ("written", "sentence", "cloze")
_WORDS = {"When": "when", "Where": "where", "Who": "whom", "How many": "how many"}


class _Asked(NamedTuple):
    """A pair, and whether the writer has confirmed it."""

    question: str
    answer: str
    sure: bool


class CoveringAugmenter:
    """Asks for every span of a passage, in several phrasings; there is no rewrite.

    Args:
        writer: The language model that writes and confirms questions. None: nothing is written, and
            only phrasings that need no model can be chosen.
        phrasings: How a span is asked for, some of these, the best first. "written": the writer
            writes a question for the span, and confirms it if it finds the span again with the
            question and the whole passage in its prompt. "sentence": the sentence with a question
            word in the span's place. "cloze": the sentence with a blank there.
        budget: The most tokens (words and punctuation marks) of a passage's pairs, questions and
            answers together. One pair is kept in any case.
        spans: The most spans that the writer is asked about in a passage.
        cache_dir: The folder of the cached answers, which `ModelAugmenter` shares.
        chunk: How many passages are worked on at a time.

    Raises:
        SettingValueError: If a number is not positive, a phrasing is unknown or named twice, or one
            needs a writer and there is none.
    """

    @typed
    def __init__(
        self,
        writer: Writer | None = None,
        phrasings: Sequence[str] = PHRASINGS,
        budget: int = 500,
        spans: int = 40,
        cache_dir: str | Path = "augmentations",
        chunk: int = 64,
    ) -> None:
        for name, value in (("budget", budget), ("spans", spans), ("chunk", chunk)):
            if value < 1:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        chosen = list(phrasings)
        if not chosen or not set(chosen) <= set(PHRASINGS) or len(set(chosen)) < len(chosen):
            raise SettingValueError(
                "phrasings",
                f"phrasings must be some of {', '.join(PHRASINGS)}, each once, got {chosen}",
                "set {}=[…]",
            )
        if writer is None and "written" in chosen:
            raise SettingValueError(
                "phrasings",
                "phrasings has written, which needs a writer, got none",
                "set {}=[sentence,cloze], or give a writer",
            )
        self._phrasings, self._budget, self._spans, self._chunk = chosen, budget, spans, chunk
        self._asker = None if writer is None else Asker(writer, cache_dir)

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """Augment every passage, in their order.

        Raises:
            WriterError: If the writer cannot answer at all. Its answers so far are kept.
        """
        ids, done, watch = iter(passages), 0, Stopwatch()
        while some := [passages[id] for id in islice(ids, self._chunk)]:
            yield from self._augment(some)
            done += len(some)
            rate = 60 * done / watch.seconds
            log.info("%d of %d passages augmented, %.0f a minute", done, len(passages), rate)

    def _augment(self, passages: Sequence[Passage]) -> Iterator[Augmented]:
        spans = [covering_spans(passage.text) for passage in passages]
        written, answers, refusals = self._written(passages, spans)
        for index, passage in enumerate(passages):
            each: dict[str, Sequence[_Asked | None]] = {
                "written": written[index],
                "sentence": [_in_sentence(passage, span) for span in spans[index]],
                "cloze": [_cloze(passage, span) for span in spans[index]],
            }
            pairs = self._chosen([each[phrasing] for phrasing in self._phrasings])
            problems = () if pairs else ("no pairs: the passage has no span",)
            doubted = sum(not pair.sure for pair in pairs)
            lesson = Lesson(passage, tuple((pair.question, pair.answer) for pair in pairs))
            yield Augmented(lesson, answers[index], doubted, problems, refusals[index])

    def _chosen(self, kinds: Sequence[Sequence[_Asked | None]]) -> list[_Asked]:
        """Put confirmed pairs first, span by span in all phrasings, up to the budget."""
        turns = [pair for turn in zip_longest(*kinds) for pair in turn if pair is not None]
        found: dict[str, _Asked] = {}
        for pair in sorted(turns, key=lambda pair: not pair.sure):  # stable
            found.setdefault(pair.question, pair)
        kept: list[_Asked] = []
        left = self._budget
        for pair in found.values():
            left -= len(answer_tokens(pair.question)) + len(answer_tokens(pair.answer))
            if kept and left < 0:
                break
            kept.append(pair)
        return kept

    def _written(
        self, passages: Sequence[Passage], spans: Sequence[Sequence[Span]]
    ) -> tuple[list[list[_Asked | None]], list[int], list[str]]:
        """Let the writer ask for the spans of some passages, and confirm what it has asked.

        Returns:
            For each passage: a pair for each span that was asked about, or None if the question
            cannot be used; the number of the writer's answers; why it refused, or "".
        """
        if self._asker is None or "written" not in self._phrasings:
            return [[] for _ in passages], [0] * len(passages), [""] * len(passages)
        self._asker.forget_refusals()
        about = [passage.id for passage in passages]
        asked = [each[: self._spans] for each in spans]
        writing = [
            [_question_request(passage, span) for span in each]
            for passage, each in zip(passages, asked, strict=True)
        ]
        questions = self._asker.ask(about, writing)
        pairs = [
            [_read(passage, *one) for one in zip(each, replies, strict=True)]
            for passage, each, replies in zip(passages, asked, questions, strict=True)
        ]
        doubts = [
            [_doubt(passage, pair) for pair in each if pair is not None]
            for passage, each in zip(passages, pairs, strict=True)
        ]
        found = self._asker.ask(about, doubts)
        confirmed = [list(_confirmed(*one)) for one in zip(passages, pairs, found, strict=True)]
        replies = [[*one, *two] for one, two in zip(questions, found, strict=True)]
        counts = [sum(isinstance(reply, str) for reply in each) for each in replies]
        errors = (next((r for r in each if isinstance(r, WriterError)), "") for each in replies)
        return confirmed, counts, list(map(str, errors))


def _question_request(passage: Passage, span: Span) -> WritingRequest:
    slots = {"title": passage.title or "none", "text": f"{span.before}{BLANK}{span.after}"}
    return SMALL_QUESTION.request(slots, words=0, attempt=0, opening=span.question_word)


def _read(passage: Passage, span: Span, reply: str | WriterError) -> _Asked | None:
    if isinstance(reply, WriterError):
        return None
    try:
        question = parse_question(reply, span.text, passage)
    except MalformedAnswerError:
        return None
    return _Asked(question, span.text, sure=False)


def _doubt(passage: Passage, pair: _Asked) -> WritingRequest:
    """Ask a question, to be answered from the whole passage."""
    slots = {"title": passage.title or "none", "text": passage.text, "question": pair.question}
    return SMALL_ANSWER.request(slots, words=0, attempt=0)


def _confirmed(
    passage: Passage, pairs: Sequence[_Asked | None], replies: Iterable[str | WriterError]
) -> Iterator[_Asked | None]:
    """Mark the pairs whose answer the writer has found again."""
    left = iter(replies)
    for pair in pairs:
        if pair is None:
            yield None
            continue
        reply = next(left)
        said = without_thinking(reply, passage.text) if isinstance(reply, str) else ""
        yield pair._replace(sure=holds_answer(said, [pair.answer]))


def _in_sentence(passage: Passage, span: Span) -> _Asked:
    """The sentence as a question: "Tollen Bridge was designed by whom and opened in 1874?"."""
    word = _WORDS.get(span.question_word, "what")
    text = f"{span.before}{word}{span.after}".rstrip(" .!?;:")
    return _Asked(f"{_about(passage, span)}{text}?", span.text, sure=False)


def _cloze(passage: Passage, span: Span) -> _Asked:
    """The sentence with a blank: "Tollen Bridge was designed by ___ and opened in 1874."."""
    return _Asked(f"{_about(passage, span)}{span.before}{BLANK}{span.after}", span.text, sure=False)


def _about(passage: Passage, span: Span) -> str:
    """The title as a beginning, since a sentence says "it" for what the passage is about.

    It is left out where it would give the answer away.
    """
    is_known = bool(passage.title) and not holds_answer(passage.title, [span.text])
    return f"{passage.title}: " if is_known else ""
