"""Finding answers in passages, compared with Pyserini's copy of DPR's evaluation."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.answers import answer_tokens, holds_answer
from retrieval.unspaced import fold_width, spaced

# Pyserini's modules give these warnings when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NASTY = [
    ("He joined the U.S. Navy in 1902.", ["US Navy"]),
    ("He joined the U.S. Navy in 1902.", ["U.S. Navy"]),
    ("He joined the U.S.Navy in 1902.", ["u.s. navy"]),
    ("Joined by the party of four", ["art"]),
    ("It is 3.14 million", ["3.14 million"]),
    ("It is 3.14 million", ["14"]),
    ("It is 3.14 million", ["3.1"]),
    ("in 1,234 days", ["1234", "1,234"]),
    ("Beyonce\u0301 sang", ["Beyonc\u00e9"]),
    ("Beyonc\u00e9 sang", ["Beyonce\u0301"]),
    ("Beyonc\u00e9 sang", ["Beyonce"]),
    (
        "\u0391\u03a3.\u0391 and \u039f\u0394\u039f\u03a3",
        ["\u03b1\u03c2.\u03b1", "\u03bf\u03b4\u03bf\u03c2"],
    ),
    ("\u0130stanbul", ["istanbul", "i\u0307stanbul"]),
    ("stra\u00dfe \ufb01n", ["strasse", "fin"]),
    ("tab\tand\u00a0no-break\u200bzero\u2028line", ["tab and no", "breakzero", "break zero line"]),
    ("snake_case_name", ["case", "_case_"]),
    (
        "\uc11c\uc6b8\uc2dc \u0928\u092e\u0938\u094d\u0924\u0947",
        ["\uc11c\uc6b8", "\uc11c\uc6b8\uc2dc", "\u0928\u092e\u0938\u094d\u0924\u0947"],
    ),
    ("$5 \u20ac6 \U0001f600\U0001f600", ["\U0001f600", "\u20ac", "5 \u20ac6"]),
    ("x\u00b2 \u2167 \u2460 \u00bd", ["x\u00b2", "\u2167", "\u00bd", "x2"]),
    ("", ["a"]),
    ("ends with the answer", ["the answer"]),
    ("The answer starts", ["the answer"]),
    ("an answer twice twice", ["twice twice twice", "answer twice"]),
]


@pytest.fixture(scope="module")
def dpr():
    """DPR's evaluation in Pyserini: its tokenizer and its ``has_answers``."""
    from pyserini.eval.evaluate_dpr_retrieval import SimpleTokenizer, has_answers

    tokenizer = SimpleTokenizer()
    return tokenizer, lambda text, answers: has_answers(text, answers, tokenizer)


@pytest.mark.parametrize(("text", "answers"), NASTY)
def test_nasty_strings_are_as_in_dpr(text, answers, dpr):
    tokenizer, has_answers = dpr
    words = tokenizer.tokenize(unicodedata.normalize("NFD", text)).words(uncased=True)
    assert answer_tokens(text) == words
    for answer in answers:
        assert holds_answer(text, [answer]) == has_answers(text, [answer])
    assert holds_answer(text, answers) == has_answers(text, answers)


def has_spaces(text):
    """Whether no character is of a script without spaces (tests/retrieval/test_unspaced.py)."""
    return fold_width(text) == text == spaced(text)


def test_every_character_of_scripts_with_spaces_is_as_in_dpr(dpr):
    tokenizer, _ = dpr
    for code in range(0x110000):
        text = unicodedata.normalize("NFD", f"a{chr(code)}B")
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co") and has_spaces(chr(code)):
            assert answer_tokens(text) == tokenizer.tokenize(text).words(uncased=True), hex(code)


# Unassigned characters are left out: a library with a newer Unicode may see letters in them.
characters = st.characters(exclude_categories=["Cn", "Cs"])
short = st.one_of(
    st.text(st.sampled_from("ab\u00e9\u0301\u03a3A. _-'\t1"), max_size=8),
    st.text(characters.filter(has_spaces), max_size=8),
)


@settings(deadline=None)  # other processes may slow it down
@given(
    text=st.lists(short, max_size=8).map(" ".join), answers=st.lists(short, min_size=1, max_size=3)
)
def test_any_strings_are_as_in_dpr(text, answers, dpr):
    tokenizer, has_answers = dpr
    answers = [answer for answer in answers if answer_tokens(answer)] or ["a"]
    words = tokenizer.tokenize(unicodedata.normalize("NFD", text)).words(uncased=True)
    assert answer_tokens(text) == words
    assert holds_answer(text, answers) == has_answers(text, answers)


@settings(deadline=None)  # other processes may slow it down
@given(before=short, answer=short.filter(answer_tokens), after=short)
def test_a_text_holds_what_stands_in_it(before, answer, after):
    text = f"{before} {answer} {after}"
    assert holds_answer(text, [answer])
    assert holds_answer(unicodedata.normalize("NFC", text), ["no such thing", answer])


@pytest.mark.parametrize("answer", ["", " ", "\u200b\x00", "\n\t"])
def test_an_answer_without_tokens_is_held_by_nothing(answer):
    assert not holds_answer("any text", [answer])
    assert not holds_answer("", [answer])
    assert holds_answer("any text", [answer, "text"])


@pytest.mark.parametrize("answers", [[], (), "Lisbon", ""])
def test_a_list_of_answers_is_expected(answers):
    with pytest.raises(ValueError, match="expected a list of at least one answer, got"):
        holds_answer("Lisbon", answers)
