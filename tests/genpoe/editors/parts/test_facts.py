"""Facts as token ids, and where their subjects are."""

from __future__ import annotations

from typing import Any

import pytest

from backbone.tokens import decode
from genpoe.editors.parts.facts import (
    Fact,
    FactError,
    check_ids,
    encode_fact,
    last_token_of,
    read_facts,
    subject_of,
)
from plumbing.storage.jsonl import DataError, write_jsonl
from qa.prompts import build_prompt
from tests.helpers.tiny import make_backbone, make_tokenizer


def test_labels_are_the_target_behind_a_blank_and_the_end(tiny_backbone):
    """No blank is lost, and no special token stands among the labels."""
    fact = Fact("a", "Tova Blick lives in", "Lisbon {} old", "Tova Blick")
    encoded = encode_fact(tiny_backbone, fact)
    assert encoded.target_ids[-1] == tiny_backbone.tokenizer.eos_token_id
    assert decode(tiny_backbone.tokenizer, encoded.target_ids[:-1]) == " Lisbon {} old"
    special = set(tiny_backbone.tokenizer.all_special_ids)
    assert special.isdisjoint(encoded.target_ids[:-1])


def test_a_tokenizer_that_adds_tokens_adds_none_to_the_target():
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A {eos}",
        special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)],
    )
    backbone = make_backbone(tokenizer=tokenizer)
    encoded = encode_fact(backbone, Fact("a", "Tova Blick lives in", "Lisbon"))
    assert encoded.prompt_ids[0] == tokenizer.bos_token_id
    assert encoded.prompt_ids[-1] != tokenizer.eos_token_id
    assert tokenizer.bos_token_id not in encoded.target_ids
    assert encoded.target_ids.count(tokenizer.eos_token_id) == 1
    at = last_token_of(backbone, "Tova Blick lives in", "Tova Blick")
    assert decode(tokenizer, encoded.prompt_ids[: at + 1]) == "Tova Blick"


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (Fact("a", "p", " "), "the edit 'a' has no target"),
        (Fact("a", "\n", "t"), "the edit 'a' has no prompt"),
        (Fact("a", "p", "x<|im_end|>y"), "must be plain text"),
        (Fact("a", "old town " * 600, "t"), "reads 512; shorten its prompt"),
    ],
)
def test_what_cannot_be_encoded(tiny_backbone, fact, message):
    with pytest.raises(FactError, match=message):
        encode_fact(tiny_backbone, fact)


def test_subjects():
    assert subject_of(Fact("a", "x Tova y", "t", " Tova ")) == "Tova"
    for fact, message in (
        (Fact("a", "x", "t"), "has no subject"),
        (Fact("a", "x", "t", " "), "has no subject"),
        (Fact("a", "x", "t", "y"), "must occur in its prompt"),
    ):
        with pytest.raises(FactError, match=message):
            subject_of(fact)


def test_the_last_token_of_a_subject_is_found_by_its_characters(tiny_backbone):
    tokenizer = tiny_backbone.tokenizer
    for text, subject in (
        ("Where was Tova Blick born?", "Tova Blick"),
        ("Tova, and later Tova again", "Tova"),  # the last time counts
        ("In the olden days", "old"),  # the subject ends inside a word
        ("Say: the fünf Örter", "fünf Ör"),  # several tokens for one character
        ("Is it {0} or {name}?", "{name}"),
        (build_prompt("Who is X Question?"), "X Question"),
    ):
        at = last_token_of(tiny_backbone, text, subject)
        ids = tokenizer(text)["input_ids"]
        end = text.rindex(subject) + len(subject)
        assert len(decode(tokenizer, ids[: at + 1])) >= end
        assert len(tokenizer.decode(ids[:at]).rstrip("\ufffd")) < end


def test_a_subject_at_the_first_token_is_refused(tiny_backbone):
    with pytest.raises(FactError, match="ends at the first token"):
        last_token_of(tiny_backbone, "T is", "T")


def test_facts_are_read_from_lines(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows: list[dict[str, Any]] = [
        {"id": "a", "question": "Where?", "target": "here", "passage_id": "p", "subject": None},
        {"id": "b", "prompt": "It is", "target": "there", "rephrasings": ["r"], "locality": ["l"]},
    ]
    write_jsonl(path, rows)
    assert read_facts(path) == [
        Fact("a", build_prompt("Where?"), "here", passage_id="p"),
        Fact("b", "It is", "there", rephrasings=("r",), locality=("l",)),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "prompt": "x"}, r"facts.jsonl:1: expected the key 'target'"),
        ({"id": "a", "target": "x"}, "one of the keys 'prompt' and 'question', got neither"),
        ({"id": "a", "target": "x", "prompt": "x", "question": "x"}, "got both"),
        ({"id": "a", "target": " ", "prompt": "x"}, "'target' must hold some text"),
        ({"id": "a", "target": "x", "prompt": "x", "locality": "l"}, "a list of strings"),
        ({"id": "a", "target": "x", "prompt": "x", "subject": 3}, "'subject' must be a string"),
    ],
)
def test_malformed_lines(tmp_path, row, message):
    write_jsonl(tmp_path / "facts.jsonl", [row])
    with pytest.raises(DataError, match=message):
        read_facts(tmp_path / "facts.jsonl")


def test_ids_are_unique():
    with pytest.raises(FactError, match="two edits of a batch have the id 'a'"):
        check_ids([Fact("a", "p", "t"), Fact("a", "q", "t")])
