"""A question's passage is edited in, asked, and undone."""

from __future__ import annotations

import pytest
import torch

from backbone.edits import state_hash
from genpoe.editors.ft_lora import FTLoRA, FTLoRASettings
from genpoe.editors.grace import GRACE, GRACESettings
from genpoe.editors.material import FileFacts, QuestionFacts, count_applicable, make_material
from genpoe.editors.method import EditedMethod
from genpoe.editors.parts.values import ValueSettings
from genpoe.editors.rome import ROME, ROMESettings
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError, read_jsonl, write_jsonl
from qa.commands.evaluate import evaluate_run
from qa.data.bios import generate
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import answer_all
from qa.method import BaseMethod, QuestionInput
from qa.passages.source import Selection
from qa.prompts import build_prompt
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

PASSAGE = Passage("p", "Tova Blick", "Tova Blick was born in Lisbon.")
TEST = Question("q", "Where was Tova Blick born?", ("Lisbon",), ("p",))
OTHER = Question("r", "What is the birthplace of Tova Blick?", ("Lisbon",), ("p",))
WORK = Question("s", "What did she do?", ("violins",), ("p",))
DATA = QADataset("people", {"p": PASSAGE}, {"dev": [TEST, WORK], "dev_rephrased": [OTHER]})


def asked(question=TEST, passages=(PASSAGE,)):
    return QuestionInput(question, Selection(passages, (1.0,) * len(passages)))


def test_facts_of_questions_leave_out_the_one_that_is_asked():
    facts, out = QuestionFacts(DATA).facts(
        PASSAGE, Question("x", "where was tova blick BORN", ("",))
    )
    assert out == 1
    assert [(f.id, f.prompt, f.target, f.subject) for f in facts] == [
        ("s", build_prompt(WORK.question), "violins", None),
        ("r", build_prompt(OTHER.question), "Lisbon", "Tova Blick"),
    ]
    facts, out = QuestionFacts(DATA).facts(PASSAGE, WORK)
    assert [f.id for f in facts] == ["q"]  # one phrasing of each fact
    assert QuestionFacts(DATA, ["dev"]).facts(PASSAGE, TEST)[0][0].id == "s"
    assert len(QuestionFacts(DATA, pairs=1).facts(PASSAGE, TEST)[0]) == 1
    with pytest.raises(SettingValueError, match="pairs must be positive"):
        QuestionFacts(DATA, pairs=0)


def test_facts_of_bios_are_exact():
    """Every question of a passage gives a fact with its subject, whatever is asked."""
    data = generate(train_entities=0, dev_entities=4, distractor_entities=0, test_entities=0)
    material = QuestionFacts(data)
    for question in data.split("dev"):
        (passage,) = data.gold(question)
        facts, out = material.facts(passage, question)
        assert out == 1
        assert len(facts) >= 5
        assert question.answers[0] in [fact.target for fact in facts]
        assert build_prompt(question.question) not in [fact.prompt for fact in facts]
        assert all(fact.subject == passage.title for fact in facts)


def test_facts_of_a_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    row = {"id": "a", "question": "Whose?", "target": "hers", "passage_id": "p"}
    same = {**row, "id": "b", "question": "Where was Tova  Blick born"}
    bare = {**row, "id": "c", "prompt": same["question"]}
    del bare["question"]
    write_jsonl(path, [row, same, bare])
    facts, out = FileFacts(path).facts(PASSAGE, TEST)
    assert ([fact.id for fact in facts], out) == (["a"], 2)
    assert FileFacts(path).facts(Passage("other", "", "x"), TEST) == ([], 0)
    write_jsonl(path, [{key: row[key] for key in ("id", "question", "target")}])
    with pytest.raises(DataError, match="the fact 'a' must name its passage"):
        FileFacts(path)
    with pytest.raises(SettingValueError, match="a file of facts or a data set, got neither"):
        make_material(None, None)


def test_facts_without_a_subject_are_told_apart():
    facts, _ = QuestionFacts(DATA).facts(PASSAGE, TEST)
    assert [f.id for f in count_applicable(facts, True)[False]] == ["s"]
    assert count_applicable(facts, False)[False] == []


def editors(backbone):
    value = ValueSettings(contexts=0, steps=3)
    return [
        FTLoRA(backbone, FTLoRASettings(passes=3)),
        GRACE(backbone, GRACESettings(1, steps=3)),
        ROME(backbone, ROMESettings(0, value=value)),
    ]


@pytest.mark.parametrize("number", range(3))
def test_each_question_is_asked_on_its_own_edits_alone(number):
    backbone = make_backbone()
    before = state_hash(backbone)
    editor = editors(backbone)[number]
    method = EditedMethod(editor, QuestionFacts(DATA), max_new_tokens=3)
    unknown = asked(passages=())
    both = method.answer([asked(), unknown])
    assert state_hash(backbone) == before
    plain = BaseMethod(backbone, max_new_tokens=3).answer([asked()])[0]
    assert both[1].nll == pytest.approx(plain.nll, abs=1e-6)  # nothing was left of the first
    if editor.needs_subject:  # one of two facts has no subject
        assert (both[0].details["edits"], both[0].details["edits_not_applicable"]) == (1, 1)
    else:
        assert (both[0].details["edits"], both[0].details["edits_not_applicable"]) == (2, 0)
    assert both[0].details["edits_left_out"] == 1
    assert both[0].details["edit_nll_after"] < both[0].details["edit_nll_before"]
    assert both[1].details["edits"] == 0
    metrics = method.measure(both)
    assert metrics["edits"] == both[0].details["edits"] / 2
    assert metrics["edit_nll_after"] == both[0].details["edit_nll_after"]
    (alone,) = method.answer([asked()])
    assert (alone.text, alone.nll) == (both[0].text, both[0].nll)


@pytest.mark.parametrize("number", range(3))
def test_edits_add_up_if_they_are_never_undone(number):
    backbone = make_backbone()
    before = state_hash(backbone)
    editor = editors(backbone)[number]
    method = EditedMethod(editor, QuestionFacts(DATA), max_new_tokens=3, reset="never")
    assert method.in_order
    first, second, third = answer_all(method, [asked(), asked(passages=()), asked(OTHER)], 2)
    assert second.nll == pytest.approx(first.nll, abs=1e-6)  # the edits of the first still act
    assert first.details["edits"] > 0 == second.details["edits"]
    assert third.details["edits"] < len(QuestionFacts(DATA).facts(PASSAGE, OTHER)[0])
    editor.undo()
    assert state_hash(backbone) == before
    if number != 1:  # GRACE acts only where a prompt is near to one of its edits
        plain = BaseMethod(backbone, max_new_tokens=3).answer([asked()])[0]
        assert second.nll != pytest.approx(plain.nll, abs=1e-3)
    with pytest.raises(SettingValueError, match="reset must be"):
        EditedMethod(editor, QuestionFacts(DATA), reset="always")


def test_an_interruption_while_a_question_is_answered_undoes_its_edits(monkeypatch):
    backbone = make_backbone()
    before = state_hash(backbone)
    method = EditedMethod(editors(backbone)[0], QuestionFacts(DATA), max_new_tokens=3)

    def stop(*_):
        assert state_hash(backbone) != before
        raise KeyboardInterrupt

    monkeypatch.setattr("qa.method.greedy_decode", stop)
    with pytest.raises(KeyboardInterrupt):
        method.answer([asked()])
    assert state_hash(backbone) == before
    assert torch.is_inference_mode_enabled() is False


def test_several_questions_cannot_share_a_model():
    method = EditedMethod(editors(make_backbone())[0], QuestionFacts(DATA))
    with (
        pytest.raises(ValueError, match="one question is answered at a time, got 2"),
        method.injected([asked(), asked()]),
    ):
        pass


def test_the_command_evaluates_an_editor(tmp_path, no_sync):
    sizes = [f"data.{name}_entities={n}" for name, n in (("dev", 2), ("test", 0), ("unseen", 0))]
    config = composed(
        "evaluate",
        *("method=ultraedit", "limit=2", "max_new_tokens=2", "data.train_entities=0"),
        *(*sizes, "data.distractor_entities=0", "editor.recipes.tuned.layers=[0,1]"),
        *(f"paths.output_dir={tmp_path}", "rag=true"),
    )
    metrics = evaluate_run(config, backbone=make_backbone(max_position_embeddings=2048))
    assert metrics["edits"] >= 5
    assert metrics["edits_left_out"] == 1
    assert metrics["edit_nll_after"] < metrics["edit_nll_before"]
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert all(row["edit_seconds"] > 0 for row in rows)
