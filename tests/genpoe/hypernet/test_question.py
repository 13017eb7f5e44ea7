"""Which tokens are the question's words, read at once or in parts."""

from __future__ import annotations

import pytest
import torch

from genpoe.hypernet.question import QuestionWords, ends_sentence, is_word
from qa.prompts import build_prompt
from retrieval.passage import Passage

QUESTION = "Where was Tova Blick born?"


def ids_of(tokenizer, text):
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


def found(tokenizer, text):
    """The question's words as the last position of a text sees them."""
    ids = ids_of(tokenizer, text)
    mask = QuestionWords(tokenizer).mask(ids, torch.ones_like(ids), 1)[0, 0]
    return tokenizer.decode(ids[0, mask]).strip()


@pytest.mark.parametrize(
    "text",
    [
        build_prompt(QUESTION),
        build_prompt(QUESTION) + " Lisbon",
        build_prompt(QUESTION, [Passage("1", "The sea", "Question: a\nAnswer: b\n\nTova Blick.")]),
        build_prompt("What is a lazy dog?") + f" fox\n\n{build_prompt(QUESTION)} Lisbon",
        QUESTION,
    ],
)
def test_only_the_last_questions_words_count(tiny_tokenizer, text):
    assert found(tiny_tokenizer, text) == QUESTION


def test_each_position_sees_what_has_been_read(tiny_tokenizer):
    """Without looking ahead: a text gives the same in one part, in two, and token by token."""
    words = QuestionWords(tiny_tokenizer)
    ids = ids_of(
        tiny_tokenizer, f"{build_prompt('What is a?')} dog\n\n{build_prompt(QUESTION)} sea"
    )
    ones = torch.ones_like(ids)
    whole = words.mask(ids, ones, ids.shape[1])[0]
    for end in range(1, ids.shape[1] + 1):
        alone = words.mask(ids[:, :end], ones[:, :end], 1)[0, 0]
        assert torch.equal(whole[end - 1, :end], alone)
        assert not whole[end - 1, end:].any()


def test_padding_is_no_word(tiny_tokenizer):
    ids = ids_of(tiny_tokenizer, QUESTION)
    padded = torch.cat([ids, ids], 1)
    mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], 1)
    assert QuestionWords(tiny_tokenizer).mask(padded, mask, 1)[0, 0].tolist() == mask[0].tolist()


def test_without_a_tokenizer_every_token_counts():
    ids = torch.tensor([[4, 5, 6]])
    assert QuestionWords(None).mask(ids, torch.ones_like(ids), 1).all()


@pytest.mark.parametrize(
    ("text", "word", "end"),
    [
        *((" Lisbon", True, False), ("8", True, False), (".", False, True), ("\n", False, True)),
        *((" é", True, False), ("�", True, False), (",", False, False), (" U.S.", True, True)),
    ],
)
def test_words_and_ends_of_sentences(text, word, end):
    assert (is_word(text), ends_sentence(text)) == (word, end)
