"""A stream of edits is the same for every method, and asks nothing that an editor was given."""

from __future__ import annotations

import pytest

from genpoe.editors.parts.facts import Fact
from genpoe.sequential.stream import (
    Stream,
    StreamSettings,
    content_of,
    fact_stream,
    passage_stream,
    write_rows,
)
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.bios import generate
from qa.data.dataset import QADataset, Question
from qa.metrics import normalize_answer
from qa.prompts import build_prompt
from retrieval.passage import Passage

BIOS = generate(train_entities=20, dev_entities=2, distractor_entities=4, test_entities=9)


def stream(**changes) -> Stream:
    return passage_stream(BIOS, "test", StreamSettings(**{"edits": 8, "batch": 3, **changes}))


def test_one_seed_gives_one_stream():
    assert stream().fingerprint == stream().fingerprint
    assert stream().fingerprint != stream(seed=1).fingerprint
    assert [len(batch) for batch in stream().batches] == [3, 3, 2]


def test_an_edit_is_a_passage_and_its_question_is_none_of_the_facts():
    edits = stream().edits
    assert len({edit.passage.id for edit in edits}) == 8
    for edit in edits:
        asked = edit.asked.question
        assert asked.passage_ids == (edit.passage.id,)
        assert asked in BIOS.split("test")
        assert len(edit.facts) == len({fact.target for fact in edit.facts}) == 4
        assert build_prompt(asked.question) not in [fact.prompt for fact in edit.facts]
        # The first fact is what is asked, in other words; a rephrasing is in words of its own.
        assert edit.facts[0].target == asked.answers[0]
        (rephrased,) = edit.rephrasings
        assert rephrased.question.answers == asked.answers
        prompts = {fact.prompt for fact in edit.facts} | {build_prompt(asked.question)}
        assert build_prompt(rephrased.question.question) not in prompts
        assert all(fact.subject == edit.passage.title for fact in edit.facts)


def test_passages_that_are_not_edited_are_distractors():
    whole = stream()
    edited = {edit.passage.id for edit in whole.edits}
    others = {passage.id for passage in whole.distractors}
    assert edited | others == BIOS.passages.keys()
    assert not edited & others
    assert {each.question.id.split("-")[0] for each in whole.locality} == {"known"}


def test_given_facts_leave_the_test_question_out_and_count_it():
    asked = {edit.passage.id: edit.asked.question for edit in stream().edits}
    material = {
        id: [
            Fact("same", build_prompt(question.question.upper()), "x"),
            Fact("other", build_prompt("Who?"), "y"),
        ]
        for id, question in asked.items()
    }
    settings = StreamSettings(edits=8, batch=3)
    made = passage_stream(BIOS, "test", settings, material)
    assert {(edit.left_out, *(f.id for f in edit.facts)) for edit in made.edits} == {(1, "other")}
    material.popitem()
    with pytest.raises(DataError, match="have none of the passage 'bios-test"):
        passage_stream(BIOS, "test", settings, material)


FACTS = [
    Fact(
        f"f{i}",
        build_prompt(f"Where was number {i} born?"),
        f"Town{i}",
        rephrasings=(build_prompt(f"What is the birthplace of {i}?"),),
        locality=(build_prompt(f"Who wrote {i}?"),),
        locality_answers=(f"Writer{i}",),
    )
    for i in range(5)
]


def test_a_fact_is_asked_as_it_is_edited_and_banks_get_it_as_one_line():
    made = fact_stream("facts", FACTS, StreamSettings(edits=4, batch=2, locality=3))
    for edit in made.edits:
        (fact,) = edit.facts
        assert edit.asked.prompt == fact.prompt
        assert edit.asked.question.question == content_of(fact.prompt)
        assert edit.passage.text == f"{content_of(fact.prompt)} {fact.target}"
        assert edit.asked.question.passage_ids == (edit.passage.id,)
        assert edit.rephrasings[0].prompt == fact.rephrasings[0]
    (left,) = made.distractors
    assert left.id not in {edit.passage.id for edit in made.edits}
    assert len(made.locality) == 3
    assert all(normalize_answer(q.question.answers[0]).startswith("writer") for q in made.locality)


def test_facts_that_contradict_are_edited_once():
    other = Fact("again", FACTS[0].prompt, "Elsewhere")
    made = fact_stream("facts", [*FACTS, other], StreamSettings(edits=5, batch=5))
    assert [edit.target for edit in made.edits if edit.id in ("f0", "again")] == ["Town0"]


def test_what_a_stream_cannot_be_made_of():
    with pytest.raises(SettingValueError, match="edits must be at most 9"):
        stream(edits=10)
    with pytest.raises(SettingValueError, match="batch must be at most edits=2"):
        stream(edits=2)
    with pytest.raises(SettingValueError, match="pairs must be positive"):
        stream(pairs=0)
    passage = Passage("p", "", "A passage.")
    lone = QADataset("lone", {"p": passage}, {"test": [Question("q", "Who?", ("x",))]})
    with pytest.raises(DataError, match="no question of the split 'test' has a gold passage"):
        passage_stream(lone, "test", StreamSettings(edits=1, batch=1))


def test_rows_say_what_was_edited():
    first = next(iter(write_rows(stream())))
    assert first["batch"] == 1
    assert len(first["facts"]) == 4
    assert first["passage"]["title"]
