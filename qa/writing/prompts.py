"""Prompts for a model that writes: a template with examples, and those for single questions.

A prompt is an instruction with examples. Each example is a turn of the user and one of the
assistant. A model with a hundred million parameters cannot write a list of pairs, so it is asked
span by span.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qa.writing.writer import WritingRequest


@dataclass(frozen=True)
class Prompt:
    """A template for requests to a model.

    Attributes:
        turn: The user's turn, with slots, which are names in braces.
        shots: The examples. Each gives the values of the slots, and the right answer.
        max_new_tokens: The most tokens of an answer.
        tokens_per_word: This many tokens are added for each word of the text that is asked about.
    """

    turn: str
    shots: tuple[tuple[Mapping[str, str], str], ...] = ()
    max_new_tokens: int = 192
    tokens_per_word: float = 0.0

    def request(
        self, slots: Mapping[str, str], words: int, attempt: int, opening: str = ""
    ) -> WritingRequest:
        """Make a request for one answer.

        Args:
            slots: The value of each slot.
            words: How many words the text that is asked about has.
            attempt: 0 asks for the most likely answer, as in `WritingRequest`.
            opening: The beginning that the answer must have.
        """
        messages: list[tuple[str, str]] = []
        for example, answer in self.shots:
            messages += [("user", self._fill(example)), ("assistant", answer)]
        messages.append(("user", self._fill(slots)))
        length = self.max_new_tokens + int(self.tokens_per_word * words)
        return WritingRequest(tuple(messages), length, attempt, opening)

    def _fill(self, slots: Mapping[str, str]) -> str:
        """Fill the slots of the turn; a value may itself hold braces."""
        text = ""
        rest = self.turn
        while "{" in rest:
            before, _, rest = rest.partition("{")
            name, _, rest = rest.partition("}")
            text += before + slots[name]
        return text + rest


BLANK = "___"
SMALL_QUESTION = Prompt(
    "Topic: {title}\nText: {text}\nWrite the question that asks for ___.",
    (
        (
            {
                "title": "Tollen Bridge",
                "text": "Tollen Bridge was designed by ___ and opened in 1874.",
            },
            "Who designed Tollen Bridge?",
        ),
        (
            {
                "title": "Amber ground beetle",
                "text": "The beetle feeds mainly on snails and lives in ___.",
            },
            "Where does the amber ground beetle live?",
        ),
        (
            {
                "title": "Otto Hagen",
                "text": "After the war he moved to Porto, where he taught until ___.",
            },
            "When did Otto Hagen stop teaching in Porto?",
        ),
        (
            {
                "title": "Marvick",
                "text": "In the census of 2004, Marvick had ___ inhabitants, …",
            },
            "How many inhabitants did Marvick have in 2004?",
        ),
        (
            {
                "title": "The Hollow Lantern",
                "text": "Her second novel, The Hollow Lantern, won the ___ in …",
            },
            "Which prize did The Hollow Lantern win?",
        ),
        (
            {
                "title": "Otto Hagen",
                "text": "… Otto Hagen (born ___ in Marvick) was a Swiss …",
            },
            "When was Otto Hagen born?",
        ),
    ),
    max_new_tokens=30,
)

SMALL_ANSWER = Prompt(
    "Topic: {title}\nText: {text}\nQuestion: {question}\nAnswer with words of the text.",
    (
        (
            {
                "title": "Tollen Bridge",
                "text": "It was designed by Ines Corvalho and opened in 1874.",
                "question": "Who designed Tollen Bridge?",
            },
            "Ines Corvalho",
        ),
        (
            {
                "title": "Otto Hagen",
                "text": "After the war he moved to Porto, where he taught until 12 May 1951.",
                "question": "Where did Otto Hagen teach after the war?",
            },
            "Porto",
        ),
        (
            {
                "title": "Marvick",
                "text": "In the census of 2004, Marvick had 23,410 inhabitants.",
                "question": "How many inhabitants did Marvick have?",
            },
            "23,410",
        ),
    ),
    max_new_tokens=16,
)
