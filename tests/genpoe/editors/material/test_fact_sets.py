"""CounterFact and zsRE: what is left out, what stays, and what is asked."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from backbone.tokens import decode
from genpoe.editors import load_counterfact, load_zsre
from genpoe.editors.material import make_material
from genpoe.editors.parts.facts import encode_fact, last_token_of
from plumbing.storage.jsonl import DataError, write_jsonl
from qa.method import BaseMethod, QuestionInput
from qa.prompts import build_prompt, build_start
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone

# Set QA_DATA to a folder that holds `editing/`.
DATA = Path(os.environ.get("QA_DATA", Path(__file__).parents[5] / "shared" / "data")) / "editing"

ROW: dict[str, Any] = {
    "case_id": 7,
    "prompt": "Ann Oakes was born in",
    "target_new": "Lisbon",
    "subject": "Ann Oakes",
    "ground_truth": "Porto",
    "rephrase_prompt": "He left. Ann Oakes comes from",
    "locality_prompt": "Ulf Brand was born in",
    "locality_ground_truth": "Porto",
}
ASKED: dict[str, Any] = {
    "src": "Where was Ann Oakes born?",
    "alt": "Lisbon",
    "subject": "Ann Oakes",
    "rephrase": "What is the birthplace of Ann Oakes?",
    "answers": ["Porto"],
    "loc": "nq question: who owns the moon",
    "loc_ans": "nobody",
}


def counterfact(tmp_path, rows=(ROW,), train=()):
    write_jsonl(tmp_path / "counterfact.jsonl", rows)
    write_jsonl(tmp_path / "counterfact_train.jsonl", train)
    return load_counterfact(tmp_path)


def zsre(tmp_path, *rows):
    write_jsonl(tmp_path / "zsre.jsonl", rows)
    return load_zsre(tmp_path)


def test_a_row_of_counterfact_is_a_fact_a_question_and_a_passage(tmp_path):
    facts = counterfact(tmp_path)
    (fact,) = facts.facts["test"]
    assert (fact.id, fact.target, fact.subject) == ("counterfact-7", "Lisbon", "Ann Oakes")
    assert fact.prompt == build_start(ROW["prompt"])
    assert fact.rephrasings == (build_start(ROW["rephrase_prompt"]),)
    assert fact.locality == (build_start(ROW["locality_prompt"]),)
    assert fact.locality_answers == ("Porto",)
    (question,) = facts.split("test")
    (again,) = facts.split("test_rephrased")
    assert question.answers == again.answers == ("Lisbon",)
    assert [*facts.gold(question), *facts.gold(again)] == [
        Passage("counterfact-7", "", "Ann Oakes was born in Lisbon")
    ] * 2
    assert fact.passage_id == question.passage_ids[0]


def test_editors_and_methods_show_the_same_prompt_in_which_no_subject_is_first(tmp_path):
    backbone = make_backbone()
    method = BaseMethod(backbone)
    for facts in (counterfact(tmp_path), zsre(tmp_path, ASKED)):
        (fact,) = facts.facts["test"]
        (question,), (again,) = facts.split("test"), facts.split("test_rephrased")
        assert method.prompt(QuestionInput(question)) == fact.prompt
        assert (method.prompt(QuestionInput(again)),) == fact.rephrasings
        encode_fact(backbone, fact)
        assert last_token_of(backbone, fact.prompt, fact.subject) > 1
    assert build_start("x", [Passage("p", "T", "text")]).startswith("T\ntext\n\nComplete")


def test_a_row_of_zsre_asks_questions(tmp_path):
    facts = zsre(tmp_path, ASKED)
    (fact,) = facts.facts["test"]
    assert fact.prompt == build_prompt(ASKED["src"])
    assert fact.rephrasings == (build_prompt(ASKED["rephrase"]),)
    assert fact.locality == (build_prompt("who owns the moon?"),)
    assert (fact.id, fact.target) == ("zsre-1", "Lisbon")
    assert list(facts.facts) == ["test"]
    with pytest.raises(DataError, match="has no split 'dev'; it has: test, test_rephrased"):
        facts.split("dev")


def test_rows_that_cannot_be_scored_are_left_out_and_counted(tmp_path, caplog):
    other = {**ROW, "case_id": 8, "target_new": "Rome"}  # the same prompt
    true = {**ROW, "case_id": 9, "prompt": "Ann Oakes, of", "target_new": "the porto"}
    mia = {**ROW, "case_id": 1, "subject": "Mia", "prompt": "Mia lives in"}
    with caplog.at_level(logging.INFO):
        facts = counterfact(tmp_path, [ROW, other, true], [mia, {**ROW, "prompt": "Ann Oakes, in"}])
    assert [(fact.id, fact.target) for fact in facts.facts["test"]] == [("counterfact-8", "Rome")]
    assert [fact.id for fact in facts.facts["train"]] == ["counterfact-1"]
    assert facts.left_out == {"already_true": 1, "doubled": 1, "of_test_subjects": 1}
    assert "1 already_true, 1 doubled, 1 of_test_subjects" in caplog.text


def test_the_fact_of_a_passage_is_what_is_asked(tmp_path):
    facts = counterfact(tmp_path)
    material = make_material(None, facts)
    (question,) = facts.split("test")
    assert material.facts(facts.passages["counterfact-7"], question) == (facts.facts["test"], 0)
    assert material.facts(Passage("other", "", "x"), question) == ([], 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_new": 5}, r"counterfact.jsonl:1: 'target_new' must be a string"),
        ({"case_id": "x"}, r"counterfact.jsonl:1: 'case_id' must be a whole number"),
        ({"subject": "Ulf"}, r"counterfact.jsonl:1: 'subject' must occur in the prompt"),
        ({"rephrase_prompt": " "}, r"counterfact.jsonl:1: 'rephrase_prompt' must hold some text"),
    ],
)
def test_a_bad_line_is_named_with_its_key(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        counterfact(tmp_path, [{**ROW, **change}])


def test_a_bad_line_of_zsre_is_named_with_its_key(tmp_path):
    with pytest.raises(DataError, match=r"zsre.jsonl:2: 'answers' must be a list of strings"):
        zsre(tmp_path, ASKED, {**ASKED, "answers": "Porto"})
    with pytest.raises(DataError, match=r"zsre.jsonl:1: expected the key 'loc_ans'"):
        zsre(tmp_path, {key: ASKED[key] for key in ASKED if key != "loc_ans"})


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}; set QA_DATA")
def test_no_blank_is_lost_in_any_published_row():
    """Labels are the target behind a blank, and the subject is never first."""
    backbone = make_backbone()
    sets = [load_counterfact(DATA), load_zsre(DATA)]
    assert [len(each.facts["test"]) for each in sets] == [2993, 488]
    for fact in (fact for each in sets for facts in each.facts.values() for fact in facts):
        labels = encode_fact(backbone, fact).target_ids
        assert decode(backbone.tokenizer, labels[:-1]) == f" {fact.target}"
        assert labels[-1] == backbone.tokenizer.eos_token_id
        assert fact.subject is not None
        assert last_token_of(backbone, fact.prompt, fact.subject) > 1
    texts = [{f.prompt for f in sets[0].facts[split]} for split in ("train", "test")]
    assert texts[0].isdisjoint(texts[1])
