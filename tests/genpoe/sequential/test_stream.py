"""A stream of edits is the same for every method, and asks nothing that an editor was given."""

from __future__ import annotations

import pytest

from genpoe.editors.material import content_of
from genpoe.editors.parts.facts import Fact, check_ids
from genpoe.sequential.stream import (
    Stream,
    StreamSettings,
    fact_stream,
    passage_stream,
    write_rows,
)
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.bios import generate
from qa.data.dataset import QADataset, Question, SentenceStart
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
        asked = edit.asked
        assert asked.passage_ids == (edit.passage.id,)
        assert asked in BIOS.split("test")
        assert len(edit.facts) == len({fact.target for fact in edit.facts}) == 4
        assert build_prompt(asked.question) not in [fact.prompt for fact in edit.facts]
        # The first fact is what is asked, in other words; a rephrasing is in words of its own.
        assert edit.facts[0].target == asked.answers[0]
        (rephrased,) = edit.rephrasings
        assert rephrased.answers == asked.answers
        prompts = {fact.prompt for fact in edit.facts} | {build_prompt(asked.question)}
        assert build_prompt(rephrased.question) not in prompts
        assert all(fact.subject == edit.passage.title for fact in edit.facts)


def test_passages_that_are_not_edited_are_distractors():
    whole = stream()
    edited = {edit.passage.id for edit in whole.edits}
    others = {passage.id for passage in whole.distractors}
    assert edited | others == BIOS.passages.keys()
    assert not edited & others
    assert {each.id.split("-")[0] for each in whole.locality} == {"known"}


def test_given_facts_leave_the_test_question_out_and_count_it():
    asked = {edit.passage.id: edit.asked for edit in stream().edits}
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


def test_a_passage_without_given_facts_is_asked_all_the_same(caplog):
    ids = [edit.passage.id for edit in stream().edits]
    settings = StreamSettings(edits=8, batch=3)
    material = {ids[0]: [Fact("a", build_prompt("Who?"), "y")], ids[1]: []}
    made = passage_stream(BIOS, "test", settings, material)
    assert [len(edit.facts) for edit in made.edits] == [1] + 7 * [0]
    (record,) = caplog.records
    assert "7 of the 8 passages that are edited have no facts" in record.getMessage()
    with pytest.raises(DataError, match="have none of the 8 passages that are edited"):
        passage_stream(BIOS, "test", settings, {"elsewhere": material[ids[0]]})


@pytest.mark.parametrize(
    "prompt", ["{}", "Question: {}\nAnswer:", "Say it.\nQuestion: {}\nAnswer:"]
)
def test_given_facts_are_told_by_their_question_whatever_its_frame(prompt):
    """Neither a test question nor a rephrasing is among the facts of any edit."""
    edits = stream().edits
    one, other = edits[:2]
    asked = [each.asked.question for each in (one, other)]
    (rephrased,) = other.rephrasings
    facts = [Fact(str(i), prompt.format(text), "x") for i, text in enumerate(asked)]
    facts.append(Fact("rephrased", prompt.format(rephrased.question), "x"))
    settings = StreamSettings(edits=8, batch=3)
    made = passage_stream(BIOS, "test", settings, {one.passage.id: facts}).edits
    assert [fact.id for fact in made[0].facts] == ["rephrased"]
    assert made[0].left_out == 2
    assert rephrased not in made[1].rephrasings
    assert made[1].rephrasings


def test_what_one_edit_asks_is_no_fact_of_another_one():
    """Questions about two passages are facts of both, under two ids, if no edit asks them."""
    ids = ("p0", "p1", "p2")
    passages = {id: Passage(id, "", f"The passage {id}.") for id in ids}
    golds = [tuple(ids[(i + j) % 3] for j in range(2)) for i in range(3)]
    splits = {
        name: [
            Question(f"{name}{i}", f"{name} {i}?", (f"{name} {i}",), gold)
            for i, gold in enumerate(golds)
        ]
        for name in ("test", "train")
    }
    data = QADataset("pairs", passages, splits)
    made = passage_stream(data, "test", StreamSettings(edits=3, batch=3)).edits
    asked = {build_prompt(edit.asked.question) for edit in made}
    facts = [fact for edit in made for fact in edit.facts]
    assert len(asked) == 3
    assert asked.isdisjoint(fact.prompt for fact in facts)
    assert {edit.left_out for edit in made} == {1}
    assert len(facts) == 6
    check_ids(facts)
    assert {fact.id for fact in facts if fact.passage_id == "p0"} == {"p0/train0", "p0/train2"}


def fact(number):
    return Fact(
        f"f{number}",
        SentenceStart("", f"Number {number} was born in", ("",)).prompt(),
        f"Town{number}",
        locality=(SentenceStart("", f"Nobody{number} lives in", ("",)).prompt(),),
        locality_answers=(f"Place{number}",),
    )


FACTS = [fact(number) for number in range(5)]
LINES = {
    f"l{i}": Passage(f"l{i}", "", f"{content_of(f.prompt)} {f.target}") for i, f in enumerate(FACTS)
}
SET = QADataset(
    "set",
    LINES,
    {
        name: [
            SentenceStart(f"f{i}{end}", text.format(i), (f.target,), (f"l{i}",))
            for i, f in enumerate(FACTS)
        ]
        for name, end, text in (
            ("test", "", "Number {} was born in"),
            ("test_rephrased", "-r", "The birthplace of {} is"),
        )
    },
)


def test_a_fact_is_asked_as_it_is_edited_and_banks_get_it_as_one_line():
    made = fact_stream(SET, "test", FACTS, StreamSettings(edits=4, batch=2, locality=3))
    for edit in made.edits:
        (given,) = edit.facts
        assert edit.asked.prompt() == given.prompt
        assert edit.passage.text == f"{content_of(given.prompt)} {given.target}"
        (rephrased,) = edit.rephrasings
        assert rephrased.id == f"{edit.id}-r"
    (left,) = made.distractors
    assert left.id not in {edit.passage.id for edit in made.edits}
    prompts = {each.locality[0] for each in FACTS}
    assert len(made.locality) == 3
    assert all(each.prompt() in prompts for each in made.locality)
    assert all(each.answers[0].startswith("Place") for each in made.locality)
    with pytest.raises(DataError, match="has the id of the fact 'f9'"):
        fact_stream(SET, "test", [fact(9)], StreamSettings(edits=1, batch=1))


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
