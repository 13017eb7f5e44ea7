"""Facts that a language model writes about a passage: pairs, and triples with a subject (app. D).

A pair's question becomes the prompt, and its answer the target. With the subject that is found in
the question, the fact is the triple (subject, relation, object): what the prompt says beside the
subject is the relation. All editors get the same facts.

Deviation: the paper's pairs are written by GPT-4o-mini. A small model cannot write a list of
sixteen, so it is asked for one question at a time, to which a span of the passage is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbone.model import Backbone
from genpoe.editors.material.prompts import PAIRS_EXAMPLE, PAIRS_PROMPT, SUBJECT_PROMPT
from genpoe.editors.material.ready import Material, without_asked
from genpoe.editors.parts.facts import Fact
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice, typed
from qa.data.dataset import Question
from qa.prompts import build_prompt
from qa.writing.asking import Asker
from qa.writing.chatter import without_thinking
from qa.writing.pairs import ListOfPairs, PairsTask, QuestionsForSpans
from qa.writing.parse import Pair
from qa.writing.writer import BackboneWriter, Writer, WriterError
from retrieval.passage import Passage

PROMPTS = ("small", "paper")
WITHOUT_SUBJECT = ("last", "skip")


class WrittenFacts(Material):
    """Facts that a writer makes of each passage, when they are first asked for.

    The subject of a question is what the writer names, if these words stand in the question; else
    the passage's title, if it does; else, with ``without_subject=last``, the last token of the
    question. The fact's ``subject_source`` says which.

    Args:
        writer: The language model. If it is the model that is edited, call `prepare` before the
            first edit.
        prompts: small (one question for each span of the passage, for models like the embedded one)
            or paper (a list of pairs).
        pairs: The most facts of a passage.
        without_subject: What becomes of a question whose subject is not found: last (its last token
            is the subject) or skip (it has none, and some editors cannot edit it).
        max_attempts: How often a passage is asked about at most, as long as it has too few pairs.
        cache_dir: The folder of the writer's answers; DMoE's augmentation shares it.

    Raises:
        SettingValueError: If a setting is out of range.
    """

    @typed
    def __init__(
        self,
        writer: Writer,
        prompts: str = "small",
        pairs: int = 16,
        without_subject: str = "last",
        max_attempts: int = 2,
        cache_dir: str | Path = "augmentations",
    ) -> None:
        check_choice("prompts", prompts, PROMPTS)
        check_choice("without_subject", without_subject, WITHOUT_SUBJECT)
        for name, value in (("pairs", pairs), ("max_attempts", max_attempts)):
            if value < 1:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        self._asker = Asker(writer, cache_dir)
        self._task: PairsTask = (
            QuestionsForSpans(pairs)
            if prompts == "small"
            else ListOfPairs(PAIRS_PROMPT, PAIRS_EXAMPLE)
        )
        self._pairs = pairs
        self._takes_last = without_subject == "last"
        self._attempts = max_attempts
        self._of: dict[Passage, list[Fact]] = {}

    def prepare(self, passages: Sequence[Passage]) -> None:
        """Write the facts of passages that have none yet.

        Raises:
            WriterError: If the writer cannot answer at all. Its answers so far are kept.
        """
        some = [passage for passage in dict.fromkeys(passages) if passage not in self._of]
        pairs: dict[Passage, dict[str, str]] = {passage: {} for passage in some}
        for attempt in range(self._attempts):
            short = [passage for passage in some if len(pairs[passage]) < self._pairs]
            for passage, found in zip(short, self._ask_pairs(short, attempt), strict=True):
                pairs[passage] = dict([*found, *pairs[passage].items()])
        kept = {passage: list(each.items())[: self._pairs] for passage, each in pairs.items()}
        for passage, subjects in zip(some, self._ask_subjects(kept), strict=True):
            self._of[passage] = [
                self._fact(f"{passage.id}/{number}", passage, *pair, said)
                for number, (pair, said) in enumerate(zip(kept[passage], subjects, strict=True))
            ]

    def facts(self, passage: Passage, asked: Question) -> tuple[list[Fact], int]:
        """The facts of a passage, and how many were left out because their question is asked."""
        self.prepare([passage])
        return without_asked(self._of[passage], asked)

    def _ask_pairs(self, passages: Sequence[Passage], attempt: int) -> list[list[Pair]]:
        """The pairs of an attempt that the writer, asked again, does not doubt."""
        ids = [passage.id for passage in passages]
        requests = [self._task.ask(passage, attempt) for passage in passages]
        found = [
            self._task.read(passage, attempt, _texts(replies)) if replies else []
            for passage, replies in zip(passages, self._asker.ask(ids, requests), strict=True)
        ]
        each = zip(passages, found, strict=True)
        doubts = [self._task.doubt(passage, pairs) for passage, pairs in each]
        answers = self._asker.ask(ids, doubts)
        return [
            self._task.confirm(pairs, _texts(replies))
            for pairs, replies in zip(found, answers, strict=True)
        ]

    def _ask_subjects(self, pairs: dict[Passage, list[Pair]]) -> list[list[str]]:
        requests = [
            [SUBJECT_PROMPT.request({"question": question}, 0, 0) for question, _ in each]
            for each in pairs.values()
        ]
        replies = self._asker.ask([passage.id for passage in pairs], requests)
        return [_texts(each) for each in replies]

    def _fact(self, id: str, passage: Passage, question: str, answer: str, said: str) -> Fact:
        subject, source = find_subject(question, said, passage.title)
        if source == "last" and not self._takes_last:
            subject, source = None, None
        return Fact(
            *(id, build_prompt(question), answer, subject),
            passage_id=passage.id,
            subject_source=source,
        )


def find_subject(question: str, said: str, title: str) -> tuple[str | None, str | None]:
    """The subject of a question, and where it comes from: model, title or last.

    Args:
        question: The question.
        said: What a model took for the subject; it counts only if it stands in the question.
        title: The title of the passage.
    """
    prompt = build_prompt(question)
    end = prompt.rindex(question.strip()) + len(question.strip())
    first_line = without_thinking(said).strip().partition("\n")[0].strip(" \"'“”.?")
    for source, text in (("model", first_line), ("title", title.strip())):
        whole = not text or text == question.strip("? ")
        # The last time that it occurs counts, and that must not lie behind the question.
        if not whole and text in question and prompt.rindex(text) + len(text) <= end:
            return text, source
    return question.split()[-1], "last"


def _texts(replies: Sequence[str | WriterError]) -> list[str]:
    """The answers, "" for one that was refused."""
    return ["" if isinstance(reply, WriterError) else reply for reply in replies]


@typed
def written_by_backbone(
    backbone: Backbone,
    batch_size: int = 32,
    temperature: float = 0.7,
    seed: int = 0,
    **settings: Any,
) -> WrittenFacts:
    """Facts that the backbone itself writes, as it is before it is edited.

    Args:
        backbone: The model.
        batch_size: How many requests are answered at once.
        temperature: The temperature of the attempts after the first.
        seed: The seed of the sampling.
        settings: The settings of `WrittenFacts`.

    Raises:
        SettingValueError: If a setting is out of range.
    """
    return WrittenFacts(BackboneWriter(backbone, batch_size, temperature, seed), **settings)
