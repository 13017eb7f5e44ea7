"""Prompts and answers, encoded apart, are the joint text, whatever the tokenizer's habits."""

from __future__ import annotations

import pytest

from backbone.decoding import greedy_decode, score_answers
from backbone.model import Backbone
from backbone.tokens import decode, encode_answer, encode_prompt
from tests.helpers.table_model import make_spiece_tokenizer, make_table_model, table_of
from tests.helpers.tiny import make_tokenizer

PROMPT = "Question: of the New York?\nAnswer:"
ANSWERS = ["the", "New York", "7", "1998", "(the) of", '"the"', "'s", "$5", "-1", "é", "北京", ""]


def prefixed_tokenizer():
    """A byte-level tokenizer that puts a space before every text."""
    from tokenizers import pre_tokenizers

    tokenizer = make_tokenizer()
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


TOKENIZERS = {
    "byte-level": make_tokenizer,
    "byte-level with a space before": prefixed_tokenizer,
    "▁ before every text": make_spiece_tokenizer,
    "no ▁ before": lambda: make_spiece_tokenizer(prepends=False),
    "▁ before and end behind": lambda: make_spiece_tokenizer(ends=True),
}


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS.keys())
@pytest.mark.parametrize("answer", ANSWERS)
def test_prompt_and_answer_encode_as_the_joint_text(make, answer):
    tokenizer = make()
    apart = [*encode_prompt(tokenizer, PROMPT), *encode_answer(tokenizer, answer)]
    joint = tokenizer(f"{PROMPT} {answer}", add_special_tokens=False)["input_ids"]
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token == "<s>" else []
    assert apart == [*begin, *joint, tokenizer.eos_token_id]


def test_a_prompt_keeps_its_beginning_and_loses_its_end():
    tokenizer = make_spiece_tokenizer(ends=True)
    assert encode_prompt(tokenizer, "of")[-1] != tokenizer.eos_token_id
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_token_id]
    assert encode_prompt(tokenizer, "of</s>")[-1] == tokenizer.eos_token_id  # the text's own


def test_an_answer_behind_a_llama_2_like_tokenizer_is_certain():
    tokenizer = make_spiece_tokenizer()
    table = table_of(tokenizer, (":", "▁the"), ("▁the", "</s>"))
    backbone = Backbone(make_table_model(table, len(tokenizer)), tokenizer, "table")
    decoded = greedy_decode(backbone, [PROMPT, "Answer:"], 4)
    assert decoded.texts == ["the", "the"]
    assert score_answers(backbone, decoded, ["the", "the"]).tolist() == pytest.approx([0, 0])


def test_ids_that_the_tokenizer_does_not_know_have_no_text():
    tokenizer = make_spiece_tokenizer()
    the, unknown = tokenizer.convert_tokens_to_ids("▁the"), len(tokenizer) + 3
    assert decode(tokenizer, [unknown, the, unknown]) == "the"
    assert decode(tokenizer, [unknown]) == ""
