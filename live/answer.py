"""What a session is asked, and what it says: tokens with their uncertainty and their provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from backbone.tokens import decode
from live.passages import is_text
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice
from retrieval.passage import Passage

Mode = Literal["experts", "rag", "base"]
MODES: tuple[Mode, ...] = ("base", "rag", "experts")
_CUT = "\ufffd"  # what the decoder writes for a character whose bytes are not all there


@dataclass(frozen=True)
class Ask:
    """A question to a session.

    Attributes:
        question: The question.
        mode: "experts" routes to the experts of passages while it decodes, "rag" puts the passages
            into the prompt, and "base" is the backbone alone.
        max_new_tokens: The most tokens of the answer.

    Raises:
        SettingValueError: If the mode is unknown, or the number is not positive.
        ValueError: If the question is empty, or no text.
    """

    question: str
    mode: Mode = "experts"
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        if self.max_new_tokens < 1:
            raise SettingValueError(
                "max_new_tokens", f"max_new_tokens must be positive, got {self.max_new_tokens}"
            )
        if not self.question.strip():
            raise ValueError("the question is empty; ask something")
        if not is_text(self.question):
            raise ValueError("the question holds half of a surrogate pair, which is no text")


@dataclass(frozen=True, slots=True)
class ActingExpert:
    """An expert that acts on a token.

    Attributes:
        passage: The passage that it knows.
        weight: Its weight among the experts of the token; 1 for each if they are summed.
    """

    passage: Passage
    weight: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer.

    Attributes:
        text: What it adds to the answer. The texts of all tokens together are the answer. A token
            that is only a part of a character has none; the last of them has the character. The
            token that ends an answer is left out, unless it is the only one.
        uncertainty: The entropy of the model before anything was routed here (DMoE eq. 1), in nats.
        triggered: Whether the router was asked at this token.
        experts: The experts that acted when it was chosen.
    """

    text: str
    uncertainty: float
    triggered: bool
    experts: tuple[ActingExpert, ...]


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        text: The answer.
        tokens: Its tokens.
        passages: The passages that stood in the prompt, if the mode was "rag".
        prompt_tokens: The number of tokens of the prompt.
        finish_reason: "stop" if the model ended the answer, "length" if it was cut.
    """

    text: str
    tokens: tuple[Token, ...]
    passages: tuple[Passage, ...]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]

    @property
    def experts(self) -> tuple[Passage, ...]:
        """The passages whose experts acted on any token, each once."""
        acted = (each.passage for token in self.tokens for each in token.experts)
        return tuple(dict.fromkeys(acted))


class Speller:
    """Turns the ids of an answer's tokens, one after another, into the text that each adds.

    The text is the one that `backbone.decoding.answer_text` gives all ids together: one line,
    without white space around it.

    Args:
        tokenizer: The backbone's tokenizer.
        stop_ids: The ids that end an answer; without any, nothing does.
    """

    def __init__(self, tokenizer: Any, stop_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._ids: list[int] = []
        self.text = ""
        self.ended = False

    def add(self, id: int) -> str:
        """The text that a token adds. A token that ends the answer adds none and sets `ended`.

        White space is added only once something follows it.
        """
        if id in self._stop_ids:
            self.ended = True
            return self._until(self._whole())
        self._ids.append(id)
        whole = self._whole()
        if self._stop_ids and "\n" in whole:
            self.ended = True
            return self._until(whole.partition("\n")[0].rstrip())
        return self._until(whole.rstrip(_CUT).rstrip())

    def end(self) -> str:
        """What is left to add when the answer is cut here."""
        return self._until(self._whole())

    def _whole(self) -> str:
        return decode(self._tokenizer, self._ids).strip()

    def _until(self, text: str) -> str:
        added = text[len(self.text) :]
        self.text += added
        return added
