"""The one prompt of all methods."""

from __future__ import annotations

from backbone.tokens import encode_answer, stop_token_ids
from qa.prompts import INSTRUCTION, build_prompt, encode_passage
from retrieval.passage import Passage

PASSAGE = Passage("1", "Tova Blick", "Tova Blick was born in Lisbon.")


def test_prompt_without_and_with_passages():
    question = f"{INSTRUCTION}\nQuestion: Where?\nAnswer:"
    assert build_prompt(" Where? ") == question
    two = build_prompt("Where?", [PASSAGE, Passage("2", "", "No title.")])
    assert two == f"Tova Blick\nTova Blick was born in Lisbon.\n\nNo title.\n\n{question}"


def test_answer_is_one_space_and_ends_the_sequence(tiny_tokenizer):
    ids = encode_answer(tiny_tokenizer, " Lisbon ")
    assert ids[-1] == tiny_tokenizer.eos_token_id
    assert tiny_tokenizer.decode(ids[:-1]) == " Lisbon"


def test_passage_is_cut(tiny_tokenizer):
    assert len(encode_passage(tiny_tokenizer, PASSAGE, 5)) == 5
    assert tiny_tokenizer.decode(encode_passage(tiny_tokenizer, PASSAGE, 99)).startswith(
        "Tova Blick\n"
    )


def test_every_token_that_begins_with_a_newline_stops(tiny_tokenizer):
    stops = stop_token_ids(tiny_tokenizer)
    expected = {
        index
        for index in range(len(tiny_tokenizer))
        if tiny_tokenizer.decode([index]).startswith("\n")
    }
    assert expected
    assert set(stops) == expected | {tiny_tokenizer.eos_token_id}
