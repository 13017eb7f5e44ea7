"""A stream runs to its end, also after a kill at any moment, and its scores are right."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from backbone.edits import state_hash
from backbone.tokens import encode_answer, encode_prompt
from genpoe.editors.grace import GRACE, GRACESettings
from genpoe.editors.ultraedit import UltraEdit, UltraEditSettings
from genpoe.sequential import run as run_module
from genpoe.sequential import scoring
from genpoe.sequential.answers import Answers
from genpoe.sequential.bank import GrowingIndex
from genpoe.sequential.journal import Journal
from genpoe.sequential.learners import Learner
from genpoe.sequential.report import read_sequence, write_report, write_run_report
from genpoe.sequential.run import RunSettings, all_rows, read_states, run_stream
from genpoe.sequential.scoring import Scorer, ScoreSettings
from genpoe.sequential.stream import StreamSettings, passage_stream
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from plumbing.storage.log import EntryLog
from qa.data.bios import generate
from qa.method import BaseMethod, QuestionInput, RAGMethod
from qa.metrics import exact_match
from qa.passages.source import Selection
from retrieval.passage import Passage
from tests.helpers.killed import Killed
from tests.helpers.tiny import make_backbone

BIOS = generate(train_entities=3, dev_entities=2, distractor_entities=2, test_entities=7)
STREAM = passage_stream(BIOS, "test", StreamSettings(edits=6, batch=3, pairs=2, locality=3))
SETTINGS = RunSettings(ScoreSettings(cell=2, final=3, rag_cell=1), k=2, batch_size=3, health=2)


def editing() -> Learner:
    editor = UltraEdit(make_backbone(), UltraEditSettings([1], ("down",), eta=1e-2))
    return Learner.of_editor(editor, 3)


def rag() -> Learner:
    return Learner.of_method(RAGMethod(make_backbone(max_position_embeddings=4096), True, 3))


def go(folder, learner=None, settings=SETTINGS, made_with=None):
    run_stream(STREAM, learner or editing(), folder, settings, made_with or {"method": "x"})


def scores(folder):
    states = read_states(folder)
    for state in states:
        state["edit"].pop("seconds", None)
        state["health"].pop("index_seconds", None)
    return states


def proof(folder):
    """What came of taking all edits back, without the time that it took."""
    found = json.loads((folder / "restored.json").read_text())
    del found["restore_seconds"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    go(folder)
    return folder


def test_every_cell_says_its_state_and_is_right(whole):
    rows = all_rows(read_states(whole))
    main = [row for row in rows if row["kind"] == scoring.MAIN]
    places = {(row["state"], row["batch"]) for row in main}
    assert places == {(i, j) for i in range(3) for j in (1, 2)}
    hashes = {row["state"]: row["state_hash"] for row in rows}
    assert len(set(hashes.values())) == 3
    for row in main:
        assert row["em"] == exact_match(row["prediction"], row["answers"])
        assert 0 <= row["token_accuracy"] <= 1
    count = sum(row["kind"] == scoring.FINAL for row in rows)
    assert count == 2 * (3 - 2)  # at the last state alone


def test_scoring_again_in_another_order_gives_the_same_numbers(whole, tmp_path):
    """Each score is of the state whose hash it has, not of whatever came last."""
    learner = editing()
    journal = Journal(whole / "journal", learner.keeps)
    commits = journal.log()
    expected = {state["state_hash"]: state["rows"] for state in read_states(whole)}
    for number, commit in [(2, commits[1]), (1, commits[0])]:
        journal.rollback(commit.id)
        scorer = Scorer(STREAM, learner, Answers(tmp_path / f"{number}", 3), SETTINGS.scores, None)
        assert scorer.score(number, commit.state) == expected[commit.state]
    journal.rollback(commits[1].id)


def test_all_edits_are_taken_back_in_the_end(whole):
    metrics = write_run_report(whole)
    assert metrics["state_hash/before"] == metrics["state_hash/restored"]
    assert metrics["state_hash/before"] == state_hash(make_backbone())
    assert metrics["state_hash/before"] != metrics["state_hash/final"]
    assert metrics["restored"] is True
    assert metrics["health/moved/final"] > 0
    assert metrics["edit_nll_after"] < metrics["edit_nll_before"]


def test_the_editor_is_at_the_last_state_when_a_run_ends(tmp_path):
    learner = editing()
    go(tmp_path, learner)
    assert learner.keeps.batches == 2
    assert (
        state_hash(learner.method.backbone)
        == json.loads((tmp_path / "restored.json").read_text())["state_hash/final"]
    )


class Kill:
    """Raises `Killed` at the call of a number, whatever is called."""

    def __init__(self, at):
        self.left = at

    def __call__(self, function):
        def called(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise Killed
            return function(*args, **kwargs)

        return called


PLACES = (
    (EntryLog, "append"),
    (Journal, "commit"),
    (Journal, "_keep"),
    (Journal, "_write_head"),
    (run_module, "write_json"),
)


@pytest.mark.parametrize(
    ("place", "stride"),
    [
        pytest.param(0, 5, marks=pytest.mark.slow),
        (1, 1),
        (2, 2),
        pytest.param(3, 2, marks=pytest.mark.slow),
        pytest.param(4, 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, whole, monkeypatch, place, stride):
    """It is killed at one call after the other of each kind, until it gets through."""
    owner, name = PLACES[place]
    expected, at = scores(whole), 1
    while True:
        folder = tmp_path / str(at)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, Kill(at)(getattr(owner, name)))
                go(folder)
        except Killed:
            go(folder)  # a new process has a new model
            assert scores(folder) == expected
            assert proof(folder) == proof(whole)
            at += stride
            continue
        break
    assert at > 1


def test_a_stream_of_empty_edits_has_a_locality_of_100(tmp_path):
    """Locality compares with the answers of state 0, never with those of an edited model."""
    learner = editing()
    object.__setattr__(learner, "items", lambda edits: ([], 0))
    go(tmp_path, learner)
    metrics = write_run_report(tmp_path)
    assert (metrics["locality"], metrics["locality/before"]) == (100.0, 100.0)
    assert metrics["health/kl/final"] == pytest.approx(0, abs=1e-6)
    assert metrics["final_minus_just_before/em"] == 0
    assert metrics["final_minus_just_before/nll"] == 0


def test_two_runs_in_one_process_are_two_processes(tmp_path, whole):
    """An editor keeps nothing outside of itself."""
    go(tmp_path / "again", editing())
    assert scores(tmp_path / "again") == scores(whole)


def test_another_run_in_the_folder_is_refused(whole):
    with pytest.raises(SettingValueError, match="was made with another method; give another"):
        go(whole, made_with={"method": "y"})


def test_a_bank_grows_and_each_question_finds_its_passage(tmp_path):
    go(tmp_path, rag())
    rows = [row for row in all_rows(read_states(tmp_path)) if row["kind"] == scoring.MAIN]
    made = [row for row in rows if row["batch"] <= row["state"]]
    later = [row for row in rows if row["batch"] > row["state"]]
    assert made
    assert all(row["found"] for row in made)  # names are unique, so BM25 finds them
    assert not any(row["found"] for row in later)
    assert all(len(row["passage_ids"]) == 2 for row in rows)
    metrics = write_run_report(tmp_path)
    assert metrics["router/recall"] == 100.0
    assert metrics["state_hash/before"] == metrics["state_hash/final"]
    kinds = {row["kind"] for row in all_rows(read_states(tmp_path))}
    assert {scoring.ORACLE, scoring.SHUFFLED} <= kinds
    oracle = [r for r in all_rows(read_states(tmp_path)) if r["kind"] == scoring.ORACLE]
    assert all(row["passage_ids"] == [row["edit"]] for row in oracle)
    shuffled = [r for r in all_rows(read_states(tmp_path)) if r["kind"] == scoring.SHUFFLED]
    assert all(row["passage_ids"] != [row["edit"]] for row in shuffled)


class NoCache(Answers):
    """Answers everything anew."""

    def ask(self, method, inputs, state):
        self._log.path.unlink(missing_ok=True)
        return super().ask(method, inputs, state)


@pytest.mark.slow
def test_answers_that_are_looked_up_are_those_that_are_computed(tmp_path, monkeypatch):
    """A bank's method answers anew only where other passages are found."""
    learner = rag()
    go(tmp_path / "cached", learner)
    monkeypatch.setattr(run_module, "Answers", NoCache)
    go(tmp_path / "anew", rag())
    cached, anew = scores(tmp_path / "cached"), scores(tmp_path / "anew")
    for one, other in zip(cached, anew, strict=True):
        for row, again in zip(one["rows"], other["rows"], strict=True):
            assert row["nll"] == pytest.approx(again["nll"], abs=1e-5)
            assert row["prediction"] == again["prediction"]
            assert row["passage_ids"] == again["passage_ids"]


def test_the_index_holds_what_it_is_told(tmp_path):
    """After passages were taken out, the scores are those of an index that never had them."""
    fixed = [Passage(f"d{i}", "", f"word{i} of the town by the sea") for i in range(4)]
    new = Passage("new", "", "the town of Lisbon by the sea")
    more = Passage("more", "", "the sea the sea and the town")
    index = GrowingIndex(tmp_path / "one", fixed, 3, 1.0)
    index.hold({"new": new})
    alone = index.select(["Lisbon by the sea", "town"])
    index.hold({"new": new, "more": more})
    assert index.select(["sea"])[0].passages[0] == more
    index.hold({"new": new})
    assert index.select(["Lisbon by the sea", "town"]) == alone
    assert alone[0].passages[0] == new
    assert sum(alone[0].weights) == pytest.approx(1)
    empty = GrowingIndex(tmp_path / "two", [], 3, 1.0)
    assert empty.select(["sea"])[0].passages == ()
    empty.hold({"new": new})
    assert empty.select(["sea"])[0].passages == (new,)


def test_grace_is_asked_while_it_acts(tmp_path):
    """The free-running answers of an editor that changes no weight are those of its codebook."""
    editor = GRACE(make_backbone(), GRACESettings(1, radius=1e-3, steps=20))
    learner = Learner.of_editor(editor, 4)
    edit = STREAM.batches[0][0]
    journal = Journal(tmp_path / "journal", editor)
    inputs = [QuestionInput(asked) for asked in scoring.first_fact(edit)]
    (before,) = learner.method.answer(inputs)
    commit = journal.commit(edit.facts[:1])
    (after,) = learner.method.answer(inputs)
    assert after.nll < before.nll
    assert commit.weights == journal.start["weights"]
    assert commit.state != journal.start["state"]


def test_teacher_forcing_is_one_column_and_free_running_another():
    """Given the tokens of the answer, the share that the model predicts; the end does not count."""
    backbone = make_backbone()
    method = BaseMethod(backbone, False, 4)
    asked = STREAM.edits[0].asked
    (answer,) = method.answer([QuestionInput(asked)])
    target = encode_answer(backbone.tokenizer, asked.answers[0])
    prompt = encode_prompt(backbone.tokenizer, asked.prompt())
    with torch.no_grad():
        best = backbone.model(torch.tensor([prompt + target])).logits[0].argmax(-1)
    right = [int(best[len(prompt) - 1 + i]) == id for i, id in enumerate(target[:-1])]
    assert answer.token_accuracy == pytest.approx(sum(right) / len(right))
    (two, _) = method.answer([QuestionInput(asked), QuestionInput(STREAM.edits[1].asked)])
    assert two.token_accuracy == answer.token_accuracy


def test_reports_of_several_runs(tmp_path, whole):
    other = tmp_path / "none"
    run_stream(
        STREAM, Learner.of_method(BaseMethod(make_backbone(), False, 3)), other, SETTINGS, {}
    )
    metrics = write_report({"none": other, "ultraedit": whole}, tmp_path / "report")
    assert metrics["none/final_minus_just_before/em"] == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "matrix.csv",
        "heatmap.png",
        "table.md",
        "metrics.json",
    }
    head, *lines = (tmp_path / "report" / "matrix.csv").read_text().splitlines()
    assert head.startswith("method,state,batch,em,f1,nll,n")
    assert len(lines) == 2 * 6
    (whole / "restored.json").rename(whole / "away")
    with pytest.raises(DataError, match="the run has not ended; repeat its command"):
        read_sequence(whole)
    (whole / "away").rename(whole / "restored.json")
    with pytest.raises(DataError, match="expected the run folder of scripts/sequential_edit"):
        read_sequence(tmp_path)
    settings = StreamSettings(edits=4, batch=2, pairs=1, locality=2)
    less = passage_stream(BIOS, "test", settings)
    run_stream(less, editing(), tmp_path / "less", SETTINGS, {})
    with pytest.raises(DataError, match="got another one; compare runs of the same data"):
        write_report({"none": other, "less": tmp_path / "less"}, tmp_path / "report")


def test_a_kill_while_all_is_taken_back_leaves_the_last_state(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "hashes", Kill(2)(Journal.hashes))  # between the two rollbacks
        try:
            go(tmp_path)
        except Killed:
            learner = editing()
            go(tmp_path, learner)
    assert proof(tmp_path) == proof(whole)
    assert state_hash(learner.method.backbone) == proof(whole)["state_hash/final"]


def test_what_is_wholly_forgotten_is_kept_at_zero(whole, monkeypatch):
    monkeypatch.setattr("genpoe.sequential.report.retention", lambda some: 0.0)
    assert write_run_report(whole)["retention/em"] == 0.0


def test_a_question_that_finds_nothing_counts_for_the_recall(whole):
    item = scoring._Item(scoring.MAIN, 1, STREAM.edits[0], STREAM.edits[0].asked)
    scores = dict.fromkeys(scoring._SCORES, 0.0)

    def found(selection, **details):
        return scoring._row(item, selection, {**scores, "details": details}, 0, "")["found"]

    assert found(Selection()) is False
    assert found(Selection.uniform([STREAM.edits[0].passage])) is True
    assert found(None) is found(Selection(), passage_ids=[]) is None


class Needy(UltraEdit):
    needs_subject = True


def test_a_learner_of_an_editor_counts_what_it_cannot_edit():
    """A fact without the subject that the editor needs is counted, and not edited."""
    learner = Learner.of_editor(Needy(make_backbone(), UltraEditSettings([1], ("down",))))
    facts, left = learner.items(STREAM.batches[0])
    assert (len(facts), left) == (6, 0)
    edit = STREAM.batches[0][0]
    without = replace(edit, facts=(replace(edit.facts[0], subject=None), *edit.facts[1:]))
    facts, left = learner.items([without])
    assert (facts, left) == ([*edit.facts[1:]], 1)


def test_the_fact_that_is_asked_is_one_that_was_edited(tmp_path):
    """An editor that needs a subject is asked about the first fact that has one, if any does."""
    learner = Learner.of_editor(Needy(make_backbone(), UltraEditSettings([1], ("down",))))
    some, none, *others = STREAM.batches[0]
    some = replace(some, facts=(replace(some.facts[0], subject=None), some.facts[1]))
    none = replace(none, facts=tuple(replace(fact, subject=None) for fact in none.facts))
    stream = replace(STREAM, batches=((some, none, *others),))
    answers = Answers(tmp_path / "answers.log", 1)
    items = scoring.Scorer(stream, learner, answers, SETTINGS.scores, None)._items(1)
    asked = {
        item.edit.id: item.asked.id for item in items if item.edit and item.kind == scoring.EDIT
    }
    assert asked == {some.id: some.facts[1].id}
    assert [each.id for each in scoring.first_fact(some)] == [some.facts[0].id]
