"""Editors among the other answering methods: a question's passage is edited in, and asked.

The edit is undone after the question, as in the paper's Table 1, or stays (``reset=never``).

Deviation: the paper's editors get 16 pairs that GPT-4o-mini writes about a passage; here they get
the data set's own pairs, those of a file, or those that the backbone or an endpoint writes, without
the question that is asked.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backbone.model import Backbone
from genpoe.editors.editor import Editor, EditReport
from genpoe.editors.material import Material, count_applicable, example_facts, make_material
from genpoe.editors.parts.facts import SUBJECT_SOURCES, Fact
from genpoe.editors.recipes import open_editor
from plumbing.mounts import mounted
from plumbing.settings import check_choice
from qa.data.dataset import QADataset
from qa.method import AnsweringMethod, Prediction, QuestionInput

log = logging.getLogger(__name__)

EXAMPLES = 100  # training facts by which a radius is chosen
RESETS = ("question", "never")


class EditedMethod(AnsweringMethod):
    """The backbone with the facts of each question's passages edited into it.

    Questions are answered one by one, because an edit acts on the whole model. A fact that lacks
    the subject that the editor needs is not edited; it is counted as not applicable.

    Args:
        editor: The editor, on the frozen backbone.
        material: What gives the facts of a passage.
        rag: Whether the passages also stand in the prompt.
        max_new_tokens: The most tokens that are decoded.
        reset: When edits are undone: "question", after each question, or "never". Then they add up
            in the order of the questions, and no fact is edited twice; ``editor.undo()`` takes all
            of them back.

    Raises:
        SettingValueError: If ``reset`` or ``max_new_tokens`` is out of range.
    """

    def __init__(
        self,
        editor: Editor,
        material: Material,
        rag: bool = False,
        max_new_tokens: int = 32,
        reset: str = "question",
    ) -> None:
        super().__init__(editor.backbone, rag, max_new_tokens)
        check_choice("reset", reset, RESETS)
        self.editor = editor
        self.material = material
        self.in_order = reset == "never"
        self._edited: set[str] = set()  # the facts whose edits stay
        self._details: dict[str, Any] = {}

    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        """Answer a batch of questions, each on the backbone with its own edits.

        With ``reset="never"`` those of earlier questions act as well.
        """
        self.material.prepare([p for input in inputs for p in input.selection.passages])
        found = []
        for input in inputs:
            (prediction,) = super().answer([input])
            details = {**prediction.details, **self._details}
            found.append(replace(prediction, details=details))
        return found

    @contextmanager
    def injected(self, inputs: Sequence[QuestionInput]) -> Iterator[None]:
        """Edit the facts of the passages of one question, and undo them at the end if they may go.

        Raises:
            ValueError: If there are several questions.
        """
        if len(inputs) != 1:
            raise ValueError(
                f"an edit acts on the whole model, so one question is answered at a time, got "
                f"{len(inputs)}; call `answer`"
            )
        facts, left_out = self._facts(inputs[0])
        some = count_applicable(facts, self.editor.needs_subject)
        new = [fact for fact in some[True] if fact.id not in self._edited]
        with torch.inference_mode(False), self._acting(new) as report:
            self._details = _details(report, new, len(some[False]), left_out)
            with torch.inference_mode():
                yield

    @contextmanager
    def _acting(self, facts: Sequence[Fact]) -> Iterator[EditReport]:
        if not self.in_order:
            with self.editor.edited(facts) as report:
                yield report
            return
        report = self.editor.edit(facts)
        self._edited.update(fact.id for fact in facts)
        with self.editor.acting():
            yield report

    def _facts(self, input: QuestionInput) -> tuple[list[Fact], int]:
        facts: dict[str, Fact] = {}
        left_out = 0
        for passage in input.selection.passages:
            found, out = self.material.facts(passage, input.question)
            facts |= {fact.id: fact for fact in found}
            left_out += out
        return list(facts.values()), left_out

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Means of what the edits were and did.

        Returns:
            ``edits``, ``edits_not_applicable``, ``edits_left_out`` (the question itself) and
            ``edits_subject_model``, ``_title`` and ``_last`` (subjects by where they come from) for
            each question, ``edit_seconds`` for each question, ``edit_nll_before`` and
            ``edit_nll_after`` for each edit, and ``edits_stuck``, the number of edits whose value
            did not get better; and what `Editor.measure` says.
        """
        every = [each.details for each in predictions if "edits" in each.details]
        made = sum(each["edits"] for each in every)
        if not every:
            return {}
        if not made:
            log.warning("no fact could be edited: every answer is that of the backbone alone")
        names = ["edits", "edits_not_applicable", "edits_left_out", "edit_seconds"]
        names += [f"edits_subject_{name}" for name in SUBJECT_SOURCES]
        found = {name: sum(each[name] for each in every) / len(every) for name in names}
        for name in ("edit_nll_before", "edit_nll_after"):
            found[name] = sum(each[name] * each["edits"] for each in every) / max(1, made)
        found |= self.editor.measure()
        return found | {"edits_stuck": float(sum(each["edits_stuck"] for each in every))}


def _details(
    report: EditReport, facts: Sequence[Fact], not_applicable: int, left_out: int
) -> dict[str, Any]:
    count = max(1, len(report.ids))
    sources = Counter(fact.subject_source for fact in facts)
    return {
        **{f"edits_subject_{name}": sources[name] for name in SUBJECT_SOURCES},
        "edits": len(report.ids),
        "edits_not_applicable": not_applicable,
        "edits_left_out": left_out,
        "edit_seconds": report.seconds,
        "edit_nll_before": sum(report.nll_before) / count,
        "edit_nll_after": sum(report.nll_after) / count,
        "edits_stuck": len(report.stuck),
        "edit_moved": max(report.moved.values(), default=0.0),
    }


def load_edited(
    backbone: Backbone,
    editor: Mapping[str, Any],
    facts: str | Path | None = None,
    dataset: QADataset | None = None,
    splits: Sequence[str] | None = None,
    pairs: int | None = None,
    rag: bool = False,
    max_new_tokens: int = 32,
    material: Material | Callable[[Backbone], Material] | None = None,
    reset: str = "question",
) -> EditedMethod:
    """Make the method from plain settings.

    Args:
        backbone: The frozen model.
        editor: The arguments of `open_editor`.
        facts: A file of facts; None: the data set's own questions are the facts.
        dataset: The data set.
        splits: The splits whose questions are facts; None: all.
        pairs: The most facts of a passage; None: all.
        rag: Whether the passages also stand in the prompt.
        max_new_tokens: The most tokens that are decoded.
        material: What gives the facts, or what makes it of the backbone; None: ``facts`` or the
            data set.
        reset: When edits are undone: "question" or "never"; see `EditedMethod`.

    Raises:
        ValueError: If a setting is out of range, or the facts are malformed.
    """
    if callable(material):
        with mounted("material"):
            material = material(backbone)
    if material is None:
        material = make_material(facts, dataset, splits, pairs)
    with mounted("editor"):
        examples = None if dataset is None else partial(example_facts, dataset, EXAMPLES)
        opened = open_editor(backbone, **editor, examples=examples)
    return EditedMethod(opened, material, rag, max_new_tokens, reset)
