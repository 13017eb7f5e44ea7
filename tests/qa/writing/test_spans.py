"""All spans of a passage that could answer a question."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qa.metrics import normalize_answer
from qa.writing.sentences import answer_spans
from qa.writing.spans import MAX_WORDS, covering_spans

TEXT = (
    "Tollen Bridge was designed by Ines Corvalho and opened in 1874. It spans the river Ave near "
    "Marvick, carries about 23,410 cars, and its three arches are made of Roman limestone."
)


def found(text):
    return [span.text for span in covering_spans(text)]


def test_names_numbers_dates_and_noun_groups_are_found():
    spans = {normalize_answer(span) for span in found(TEXT)}
    wanted = ["Tollen Bridge", "Ines Corvalho", "1874", "river Ave", "Marvick", "23,410 cars"]
    wanted += ["three arches", "arches", "Roman limestone", "limestone", "three", "23,410"]
    assert {normalize_answer(span) for span in wanted} <= spans
    assert not spans & {"was", "designed by", "it", "near", "its"}


def test_names_and_numbers_come_before_other_groups():
    first = found(TEXT)
    assert first[: len(answer_spans(TEXT))] == [span.text for span in answer_spans(TEXT)]
    assert first.index("1874") < first.index("limestone")
    assert first.index("Marvick") < first.index("arches")


def test_groups_that_are_joined_are_spans():
    spans = found("He was the Peshwa of the Maratha Empire, and traded in tobacco and cotton.")
    assert {"Peshwa of the Maratha Empire", "tobacco and cotton", "Peshwa"} <= set(spans)


def test_a_possessive_is_no_part_of_a_name():
    assert "Noether" in found("It follows from Noether's theorem of 1918.")


@given(st.text(alphabet="aA1 .,'’-oftheand\n“”é", max_size=80) | st.text(max_size=60))
def test_every_span_stands_where_it_says(text):
    spans = covering_spans(text)
    keys = [normalize_answer(span.text) for span in spans]
    assert len(keys) == len(set(keys))
    for span in spans:
        assert span.context.replace("… ", "").replace(" …", "") in text.replace("… ", "")
        assert 1 <= len(span.text.split()) <= MAX_WORDS
