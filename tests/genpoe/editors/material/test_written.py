"""Facts that a model writes about a passage, and the subjects of their questions."""

from __future__ import annotations

import pytest

from backbone.edits import state_hash
from genpoe.commands.write_facts import write_facts
from genpoe.editors.material import FileFacts, WrittenFacts, count_applicable, written_by_backbone
from genpoe.editors.material.written import find_subject
from genpoe.editors.parts.facts import encode_fact, last_token_of, read_facts, subject_of
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import read_jsonl
from qa.commands.evaluate import evaluate_run
from qa.data.dataset import Question
from qa.prompts import build_prompt
from qa.writing.writer import RefusedError
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

PASSAGE = Passage("p", "Tova Blick", "Tova Blick was born in Lisbon in 1874, and she made violins.")
LIST = """Q: Where was Tova Blick born?
A: Lisbon
Q: When was she born?
A: 1874
Q: What did the surgeon of Lisbon make?
A: violins"""
ASKED = Question("q", "where was tova  blick born", ("Lisbon",), ("p",))
OTHER = Question("q", "Who?", ("x",), ("p",))


class Scripted:
    """A writer that answers each request by a rule, and notes what it was asked."""

    batch_size = 4
    fingerprint = "scripted"

    def __init__(self, **subjects):
        self.subjects, self.asked = subjects, []

    def write(self, requests):
        self.asked += requests
        return [self._answer(request.messages[-1][1]) for request in requests]

    def _answer(self, turn):
        if "Which words" not in turn:
            return LIST
        return next((s for start, s in self.subjects.items() if f" {start} " in turn), "")


def written(tmp_path, writer, **settings):
    return WrittenFacts(writer, "paper", cache_dir=tmp_path, **settings)


def test_pairs_become_facts_with_a_subject_that_stands_in_the_question(tmp_path):
    writer = Scripted(Where="Tova Blick", When="Mia", What="surgeon of Lisbon")
    facts, out = written(tmp_path, writer).facts(PASSAGE, OTHER)
    assert out == 0
    assert [(f.id, f.target, f.subject, f.subject_source) for f in facts] == [
        ("p/0", "Lisbon", "Tova Blick", "model"),
        ("p/1", "1874", "born?", "last"),  # Mia does not occur, and neither does the title
        ("p/2", "violins", "surgeon of Lisbon", "model"),
    ]
    assert facts[1].prompt == build_prompt("When was she born?")
    assert all(fact.passage_id == "p" for fact in facts)
    assert len(count_applicable(facts, True)[True]) == 3


def test_a_question_without_a_subject_may_be_no_fact_for_some_editors(tmp_path):
    facts, _ = written(tmp_path, Scripted(), without_subject="skip").facts(PASSAGE, OTHER)
    assert [f.subject_source for f in facts] == ["title", None, None]
    some = count_applicable(facts, True)
    assert (len(some[True]), len(some[False])) == (1, 2)  # counted, not dropped
    assert len(count_applicable(facts, False)[True]) == 3


def test_the_question_that_is_asked_is_left_out_and_counted(tmp_path):
    facts, out = written(tmp_path, Scripted()).facts(PASSAGE, ASKED)
    assert ([fact.target for fact in facts], out) == (["1874", "violins"], 1)


def test_every_editor_gets_the_same_facts_and_nothing_is_asked_twice(tmp_path):
    first, second = Scripted(Where="Tova Blick"), Scripted()
    material = written(tmp_path, first)
    material.prepare([PASSAGE, PASSAGE])
    assert len(first.asked) == 4 + 1  # the list, tried again as it is short, and three subjects
    facts = material.facts(PASSAGE, OTHER)
    assert written(tmp_path, second).facts(PASSAGE, OTHER) == facts
    assert second.asked == []
    assert len(written(tmp_path, second, pairs=2).facts(PASSAGE, OTHER)[0]) == 2


def test_a_refused_passage_has_no_facts(tmp_path):
    writer = Scripted()
    writer.write = lambda requests: [RefusedError("too long")] * len(requests)  # type: ignore[method-assign]
    assert written(tmp_path, writer).facts(PASSAGE, OTHER) == ([], 0)


@pytest.mark.parametrize(
    ("question", "said", "found"),
    [
        ("Who taught Ann Oakes?", ' "Ann Oakes".\nIt is', ("Ann Oakes", "model")),
        ("Who taught Ann Oakes?", "ann oakes", ("Oakes?", "last")),
        ("Who taught Ann Oakes?", "Who taught Ann Oakes", ("Oakes?", "last")),
        ("Where is An?", "An", ("An?", "last")),  # "An" occurs behind the question, in "Answer"
        ("Is {x} a {x}?", "{x}", ("{x}", "model")),  # braces and repetition
        ("When was Tova Blick born?", "", ("Tova Blick", "title")),
    ],
)
def test_subjects(question, said, found):
    assert find_subject(question, said, "Tova Blick") == found


def test_a_last_token_is_that_of_the_question():
    backbone = make_backbone()
    question = "Where is the old town?"
    subject, source = find_subject(question, "", "")
    prompt = build_prompt(question)
    assert subject is not None
    position = last_token_of(backbone, prompt, subject)
    start = backbone.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"][position]
    assert (source, start[1]) == ("last", prompt.index("?") + 1)


def test_the_backbone_writes_facts_that_every_editor_can_edit(tmp_path):
    backbone = make_backbone(max_position_embeddings=2048)
    before = state_hash(backbone)
    facts, _ = written_by_backbone(backbone, pairs=3, cache_dir=tmp_path).facts(PASSAGE, OTHER)
    assert state_hash(backbone) == before
    for fact in facts:
        encode_fact(backbone, fact)
        assert subject_of(fact) in fact.prompt


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pairs": 0}, "pairs must be positive, got 0"),
        ({"without_subject": "first"}, "without_subject must be one of last, skip"),
        ({"prompts": "x"}, "prompts must be one of small, paper, got 'x'"),
        ({"max_attempts": 1.5}, "max_attempts must be a whole number"),
    ],
)
def test_settings_out_of_range(tmp_path, setting, message):
    with pytest.raises(SettingValueError, match=message):
        WrittenFacts(Scripted(), cache_dir=tmp_path, **setting)


def test_the_command_edits_what_the_backbone_writes(tmp_path, no_sync, monkeypatch):
    monkeypatch.setattr(
        "qa.writing.writer.BackboneWriter.write", lambda self, requests: Scripted().write(requests)
    )
    sizes = [f"data.{name}_entities={n}" for name, n in (("dev", 2), ("test", 0), ("unseen", 0))]
    config = composed(
        "evaluate",
        *("method=ultraedit", "limit=2", "max_new_tokens=2", "data.train_entities=0"),
        *(*sizes, "data.distractor_entities=0", "editor.recipes.tuned.layers=[0,1]"),
        *(f"paths.output_dir={tmp_path}", "material=backbone", "material.prompts=paper"),
        f"material.cache_dir={tmp_path}",
    )
    metrics = evaluate_run(config, backbone=make_backbone(max_position_embeddings=2048))
    assert metrics["edits"] == 3
    assert metrics["edits_subject_last"] == 3
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert [row["edits_subject_last"] for row in rows] == [3, 3]


def test_facts_are_written_to_a_file_that_every_editor_reads(tmp_path, no_sync, monkeypatch):
    monkeypatch.setattr(
        "qa.writing.writer.BackboneWriter.write", lambda self, requests: Scripted().write(requests)
    )
    sizes = [f"data.{name}_entities={n}" for name, n in (("dev", 2), ("test", 0), ("unseen", 0))]
    config = composed(
        "write_facts",
        *("data.train_entities=0", *sizes, "data.distractor_entities=0"),
        *(f"paths.output_dir={tmp_path}", "material.prompts=paper"),
        f"material.cache_dir={tmp_path}",
    )
    metrics = write_facts(config, make_backbone(max_position_embeddings=2048))
    assert metrics == {
        **{"passages": 2, "facts_per_passage": 3, "subject_model": 0, "subject_title": 0},
        **{"subject_last": 100, "without_subject": 0},
    }
    facts = read_facts(tmp_path / "facts.jsonl")
    assert [fact.subject_source for fact in facts] == ["last"] * 6
    material = FileFacts(tmp_path / "facts.jsonl")
    (first, *_), _ = material.facts(Passage(facts[0].passage_id or "", "", ""), OTHER)
    assert first == facts[0]
