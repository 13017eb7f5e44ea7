"""Facts of training data, by which settings are chosen."""

from __future__ import annotations

import pytest

from genpoe.editors import load_counterfact
from genpoe.editors.material import example_facts
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import write_jsonl
from qa.data.bios import generate, other_phrasings
from qa.data.dataset import QADataset
from tests.genpoe.editors.material.test_fact_sets import ROW


def test_examples_of_bios_are_training_facts_with_another_phrasing():
    data = generate(train_entities=12, dev_entities=2, distractor_entities=0, test_entities=0)
    facts = example_facts(data, 8)
    assert facts == example_facts(data, 8) != example_facts(data, 8, seed=1)
    asked = {question.prompt() for question in data.split("train")}
    assert len({fact.passage_id for fact in facts}) == 8  # no two about one entity
    for fact in facts:
        assert fact.prompt in asked
        assert fact.locality[0] in asked - {fact.prompt}
        assert fact.subject is not None
        assert fact.subject in fact.rephrasings[0]
        assert fact.rephrasings[0] != fact.prompt
        assert fact.passage_id is not None
        assert fact.target in data.passages[fact.passage_id].text


def test_phrasings_of_a_question():
    data = generate(train_entities=4, dev_entities=0, distractor_entities=0, test_entities=0)
    question = data.split("train")[0]
    (passage,) = data.gold(question)
    others = other_phrasings(question.question, passage.title)
    assert question.question not in others
    assert question.question in other_phrasings(others[0], passage.title)
    assert other_phrasings("Who is that?", passage.title) == ()


def test_examples_of_a_fact_set_are_its_own(tmp_path):
    rows = [{**ROW, "case_id": i, "subject": f"Mia {i}", "prompt": f"Mia {i} is"} for i in range(4)]
    write_jsonl(tmp_path / "counterfact.jsonl", rows[:1])
    write_jsonl(tmp_path / "counterfact_train.jsonl", rows[1:])
    data = load_counterfact(tmp_path)
    assert sorted(fact.id for fact in example_facts(data, 3)) == [
        f"counterfact-{i}" for i in (1, 2, 3)
    ]
    with pytest.raises(SettingValueError, match="expected 4 training facts with rephrasings"):
        example_facts(data, 4)
    with pytest.raises(SettingValueError, match="in the data set 'x', got 0"):
        example_facts(QADataset("x", {}, {}), 1)
