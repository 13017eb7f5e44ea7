"""What takes part in sequential editing: an editor, a bank of passages, or the backbone alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from genpoe.editors.editor import Editor
from genpoe.editors.material import count_applicable
from genpoe.sequential.bank import PassageBank
from genpoe.sequential.journal import Journaled
from genpoe.sequential.stream import Edit
from qa.method import AnsweringMethod, QuestionInput


class ActingMethod(AnsweringMethod):
    """The backbone as an editor has left it.

    Args:
        editor: The editor.
        max_new_tokens: The largest number of tokens that are decoded.
    """

    uses_passages = False

    def __init__(self, editor: Editor, max_new_tokens: int = 32) -> None:
        super().__init__(editor.backbone, False, max_new_tokens)
        self.editor = editor

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        """Let the edits act."""
        return self.editor.acting()


@dataclass(frozen=True)
class Learner:
    """A method that learns batch by batch, and answers in between.

    Attributes:
        keeps: What changes with an edit: an editor, or a bank of passages.
        method: What answers.
        edits_weights: Whether an editor is behind it. If not, an answer depends on the passages
            that are found and on nothing else that an edit changes.
    """

    keeps: Journaled
    method: AnsweringMethod
    edits_weights: bool

    @classmethod
    def of_method(cls, method: AnsweringMethod) -> Learner:
        """The learner of a method that keeps passages, or none, and changes no weight."""
        return cls(PassageBank(method.backbone), method, False)

    @classmethod
    def of_editor(cls, editor: Editor, max_new_tokens: int = 32) -> Learner:
        """The learner of an editor."""
        return cls(editor, ActingMethod(editor, max_new_tokens), True)

    @property
    def finds_passages(self) -> bool:
        """Whether each question is given passages that are found."""
        return self.method.uses_passages

    @property
    def needs_subject(self) -> bool:
        """Whether an editor is behind it that edits only facts with a subject."""
        return isinstance(self.keeps, Editor) and self.keeps.needs_subject

    def asking(self, rag: bool) -> AnsweringMethod:
        """The method, with passages in the prompt or without."""
        if rag == self.method.rag:
            return self.method
        other = copy.copy(self.method)
        other.rag = rag
        return other

    def items(self, edits: Sequence[Edit]) -> tuple[list[Any], int]:
        """What a batch of edits is for this learner, and how many facts it cannot take.

        A fact is not applicable if the editor needs a subject and the fact has none.
        """
        if not isinstance(self.keeps, Editor):
            return [edit.passage for edit in edits], 0
        facts = [fact for edit in edits for fact in edit.facts]
        some = count_applicable(facts, self.needs_subject)
        return some[True], len(some[False])
