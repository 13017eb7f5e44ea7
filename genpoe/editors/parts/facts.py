"""Facts that are to be edited into a model, as token ids.

A fact is a prompt and the target that the model is to write behind it. Its ids are those of the
prompt, of the target after one space, and of the end of the sequence. They are encoded once and
never decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.decoding import positions
from backbone.model import Backbone
from backbone.tokens import encode_answer, encode_prompt
from plumbing.storage.jsonl import DataError, check_new_id, describe, read_jsonl, text_field
from qa.prompts import build_prompt

SUBJECT_SOURCES = ("model", "title", "last")


class FactError(ValueError):
    """A fact cannot be edited into this model; the message names it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One edit that is wanted.

    Attributes:
        id: Its id, unique in its batch.
        prompt: The text that the model reads.
        target: What it is to write behind the prompt.
        subject: What the fact is about, a part of the prompt; None if that is not known. If it
            occurs several times, the last time counts.
        rephrasings: Other prompts behind which the target is right.
        locality: Prompts whose answers are to stay.
        passage_id: The passage that says the fact, if there is one.
        locality_answers: The right answer of each prompt of ``locality``; empty: not known.
        subject_source: Where the subject comes from, if it was not given: model, title or last (the
            last token of the question).
    """

    id: str
    prompt: str
    target: str
    subject: str | None = None
    rephrasings: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    passage_id: str | None = None
    locality_answers: tuple[str, ...] = ()
    subject_source: str | None = None


@dataclass(frozen=True)
class EncodedFact:
    """A fact as one model reads it.

    Attributes:
        fact: The fact.
        prompt_ids: The ids of its prompt.
        target_ids: The ids of its target, with the end of the sequence.
    """

    fact: Fact
    prompt_ids: list[int]
    target_ids: list[int]


def encode_fact(backbone: Backbone, fact: Fact) -> EncodedFact:
    """Encode a fact.

    Raises:
        FactError: If its prompt or its target is blank, if its target holds the text of a special
            token, or if it is too long for the model.
    """
    for name, text in (("prompt", fact.prompt), ("target", fact.target)):
        if not text.strip():
            raise FactError(f"the edit {fact.id!r} has no {name}; give it one, or leave it out")
    tokenizer = backbone.tokenizer
    prompt, target = (
        encode_prompt(tokenizer, fact.prompt),
        encode_answer(tokenizer, fact.target),
    )
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if not special.isdisjoint(target[:-1]):
        raise FactError(
            f"the target of the edit {fact.id!r} must be plain text, got {fact.target!r}, which "
            "holds a special token of the tokenizer; take it out"
        )
    if not prompt:
        raise FactError(f"the prompt of the edit {fact.id!r} has no token; give it some text")
    limit = positions(backbone)
    if limit and len(prompt) + len(target) > limit:
        raise FactError(
            f"the edit {fact.id!r} has {len(prompt) + len(target)} tokens, and {backbone.name} "
            f"reads {limit}; shorten its prompt"
        )
    return EncodedFact(fact, prompt, target)


def subject_of(fact: Fact) -> str:
    """The subject of a fact, without white space around it.

    Raises:
        FactError: If the fact has none, or if it does not occur in the prompt.
    """
    subject = (fact.subject or "").strip()
    if not subject:
        raise FactError(
            f"the edit {fact.id!r} has no subject, and this editor needs one; give it a subject "
            "or use an editor that needs none"
        )
    if subject not in fact.prompt:
        raise FactError(
            f"the subject of the edit {fact.id!r} must occur in its prompt, got the subject "
            f"{subject!r} and the prompt {fact.prompt!r}; correct one of them"
        )
    return subject


def last_token_of(backbone: Backbone, text: str, subject: str) -> int:
    """The position of the last token of a subject in the ids of a text.

    It is the last token whose characters overlap those of the subject, by the tokenizer's offsets.
    A subject may end inside a token, so the subject is never encoded by itself.

    Args:
        backbone: The model.
        text: The text; its ids are those of `backbone.tokens.encode_prompt`.
        subject: A part of the text. If it occurs several times, the last time counts.

    Raises:
        FactError: If the tokenizer has no offsets, or if the subject is the very first token, where
            many models keep a state that has nothing to do with the token.
    """
    start = text.rindex(subject)
    end = start + len(subject)
    try:
        offsets = backbone.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    except NotImplementedError as error:
        raise FactError(
            f"the tokenizer of {backbone.name} does not say which characters a token stands for; "
            "an editor that needs a subject wants a fast tokenizer"
        ) from error
    overlapping = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not overlapping or overlapping[-1] == 0:
        raise FactError(
            f"the subject {subject!r} ends at the first token of {text!r}; put a line before it"
        )
    return int(overlapping[-1])


def read_facts(path: str | Path) -> list[Fact]:
    """Read facts from JSON lines.

    A line has ``id``, ``target``, and either ``prompt`` (the text that the model reads) or
    ``question`` (which is put into the project's prompt). It may have ``subject``,
    ``rephrasings``, ``locality`` (lists of prompts), ``locality_answers``,
    ``passage_id`` and ``subject_source``.

    Raises:
        DataError: If the file is missing, or a line is malformed; the message names the line.
    """
    return list(_read(Path(path)))


def _read(path: Path) -> Iterator[Fact]:
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        id = text_field(row, "id", where)
        check_new_id(lines, id, "fact", path, number)
        if ("prompt" in row) == ("question" in row):
            raise DataError(
                f"{where}: expected one of the keys 'prompt' and 'question', got "
                f"{'both' if 'prompt' in row else 'neither'}; a question is put into the prompt"
            )
        asked = "question" in row
        prompt = build_prompt(text_field(row, "question", where)) if asked else None
        yield Fact(
            id=id,
            prompt=prompt or text_field(row, "prompt", where),
            target=text_field(row, "target", where),
            subject=_maybe_text(row, "subject", where),
            rephrasings=_texts(row, "rephrasings", where),
            locality=_texts(row, "locality", where),
            passage_id=_maybe_text(row, "passage_id", where),
            locality_answers=_texts(row, "locality_answers", where),
            subject_source=_maybe_text(row, "subject_source", where),
        )


def _maybe_text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if row.get(key) is None else text_field(row, key, where)


def _texts(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = row.get(key, [])
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise DataError(f"{where}: {key!r} must be a list of strings, got {describe(values)}")
    return tuple(values)


def check_ids(facts: Sequence[Fact]) -> None:
    """Check that no two facts of a batch have the same id.

    Raises:
        FactError: If two have.
    """
    seen: set[str] = set()
    for fact in facts:
        if fact.id in seen:
            raise FactError(f"two edits of a batch have the id {fact.id!r}; rename one of them")
        seen.add(fact.id)
