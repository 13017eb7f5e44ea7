"""DMoE as an answering method: its evaluation from a bank on disk, and its controls."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout
from dmoe.decoding.router import OracleRouter, RandomRouter, RetrievalRouter
from dmoe.decoding.trigger import ConstantTrigger, RandomTrigger
from dmoe.decoding.weighting import weights_for
from dmoe.method import DMoEMethod, load_dmoe
from dmoe.metrics import routing_metrics
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import read_jsonl, write_jsonl
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import Question
from qa.evaluation.evaluate import evaluate
from qa.method import BaseMethod, QuestionInput
from qa.passages.source import NoPassages, Selection
from retrieval.passage import Passage
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.fakes import WordRetriever

CONF = str(Path(__file__).parents[2] / "conf")
PASSAGES = {f"p{i}": Passage(f"p{i}", "", f"passage {i} about lisbon") for i in range(12)}
QUESTIONS = [
    Question("q0", "Where was Tova Blick born?", ("Lisbon",), ("p3",)),
    Question("q1", "Who plays violins?", ("the quick brown fox",)),
    Question("q2", "lisbon", ("a",), ("p0", "p1")),
]
INPUTS = [QuestionInput(question) for question in QUESTIONS]


def make_method(backbone, router=RandomRouter, trigger=None, **settings):
    source = MemoryExperts(backbone)
    return DMoEMethod(backbone, source, router, trigger or RandomTrigger(0.5), 2, **settings)


def test_without_a_trigger_it_is_the_base_method(tiny_backbone):
    method = make_method(tiny_backbone, trigger=ConstantTrigger(False), max_new_tokens=10)
    mine = method.answer(INPUTS)
    base = BaseMethod(tiny_backbone, max_new_tokens=10).answer(INPUTS)
    assert [p.text for p in mine] == [p.text for p in base]
    assert [p.nll for p in mine] == pytest.approx([p.nll for p in base], rel=1e-4)
    assert [p.details["triggers"] for p in mine] == [0, 0, 0]


def test_experts_change_what_it_says_and_leave_the_backbone_alone(tiny_backbone):
    ids = torch.randint(3, 300, (2, 6))
    before = tiny_backbone.model(ids).logits
    mine = make_method(tiny_backbone, trigger=ConstantTrigger(True)).answer(INPUTS)
    base = BaseMethod(tiny_backbone).answer(INPUTS)
    assert all(m.nll != pytest.approx(b.nll) for m, b in zip(mine, base, strict=True))
    assert torch.equal(tiny_backbone.model(ids).logits, before)


def test_predictions_say_what_was_routed(tiny_backbone):
    method = make_method(tiny_backbone, max_new_tokens=9)
    for prediction, question in zip(method.answer(INPUTS), QUESTIONS, strict=True):
        details = json.loads(json.dumps(prediction.details))
        assert len(details["uncertainty"]) == details["tokens"] <= 9
        assert len(details["routed"]) == details["triggers"]
        routed = {id for trigger in details["routed"] for id in trigger["passage_ids"]}
        assert routed <= set(PASSAGES)
        assert all(0 <= trigger["position"] < details["tokens"] for trigger in details["routed"])
        gold = set(question.passage_ids)
        assert details["routed_gold"] == (bool(gold & routed) if gold else None)


def test_the_router_reads_the_question_not_the_prompt(tiny_backbone):
    retriever = WordRetriever(PASSAGES)
    router = partial(RetrievalRouter, retriever=retriever)
    method = make_method(tiny_backbone, router, ConstantTrigger(True), max_new_tokens=2)
    method.answer(INPUTS)
    assert retriever.asked[0] == [question.question for question in QUESTIONS]


def test_a_batch_is_its_rows(tiny_backbone):
    method = make_method(tiny_backbone)
    together = method.answer(INPUTS)
    alone = [method.answer([input])[0] for input in INPUTS]
    assert [(p.text, p.details["routed"]) for p in together] == [
        (p.text, p.details["routed"]) for p in alone
    ]
    assert [p.nll for p in together] == pytest.approx([p.nll for p in alone], rel=1e-4)
    assert method.answer([]) == []


def test_it_needs_passages_for_rag_or_the_oracle_only(tiny_backbone):
    assert not make_method(tiny_backbone).uses_passages
    assert make_method(tiny_backbone, rag=True).uses_passages
    assert make_method(tiny_backbone, OracleRouter).uses_passages


def test_the_oracle_routes_the_selected_passages(tiny_backbone):
    method = make_method(tiny_backbone, OracleRouter, ConstantTrigger(True))
    chosen = Selection.uniform([PASSAGES["p3"], Passage("unknown", "", "x")])
    (prediction,) = method.answer([QuestionInput(QUESTIONS[0], chosen)])
    assert {tuple(t["passage_ids"]) for t in prediction.details["routed"]} == {("p3",)}
    assert prediction.details["routed_gold"] is True


def test_it_is_evaluated_like_any_other(tiny_backbone, tmp_path):
    method = make_method(tiny_backbone, max_new_tokens=6)
    metrics = evaluate(method, QUESTIONS, NoPassages(), tmp_path, batch_size=2)
    assert {"em", "f1", "nll", "n", "seconds_per_question"} <= metrics.keys()


def test_metrics_of_routing():
    details: list[dict] = [
        {"tokens": 4, "triggers": 2, "routed_gold": True},
        {"tokens": 4, "triggers": 0, "routed_gold": None},
        {"tokens": 2, "triggers": 1, "routed_gold": False},
    ]
    expected = {"trigger_rate": 30.0, "triggered_questions": 200 / 3, "routed_gold": 50.0}
    assert routing_metrics(details) == pytest.approx(expected)
    assert "routed_gold" not in routing_metrics(details[1:2])
    assert routing_metrics([]) == {}


def test_the_metrics_of_an_evaluation(tiny_backbone):
    method = make_method(tiny_backbone)
    predictions = method.answer(INPUTS)
    tokens, triggers = (sum(p.details[key] for p in predictions) for key in ("tokens", "triggers"))
    assert 0 < triggers < tokens
    assert method.measure(predictions)["trigger_rate"] == pytest.approx(100 * triggers / tokens)


@pytest.fixture
def bank_dir(tiny_backbone, tmp_path, no_sync):
    source = MemoryExperts(tiny_backbone)
    experts = source.get(list(source))
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in experts.items()}
    spec = BankSpec(
        tiny_backbone.name, tiny_backbone.fingerprint, ExpertLayout(shapes, "float32"), alpha=16.0
    )
    Bank.create(tmp_path / "bank", spec).add(list(PASSAGES.values()), experts)
    return tmp_path / "bank"


def composed(*overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("evaluate", ["method=dmoe", *overrides])


@pytest.fixture
def compose_small(bank_dir, tiny_backbone, tmp_path, monkeypatch):
    """Composes an evaluation of a few questions with the tiny backbone and its bank."""
    monkeypatch.setattr("backbone.load_backbone", lambda **settings: tiny_backbone)
    write_data(tmp_path / "data", PASSAGES.values())
    small = [
        *("data=local", f"data.dir={tmp_path / 'data'}", f"bank.dir={bank_dir}"),
        *(f"paths.output_dir={tmp_path}", "max_new_tokens=3"),
    ]
    return lambda *overrides: composed(*small, *overrides)


def write_data(folder, passages):
    write_jsonl(folder / "passages.jsonl", map(asdict, passages))
    for split in ("train", "dev"):
        write_jsonl(folder / f"{split}.jsonl", map(asdict, (QUESTIONS[0], QUESTIONS[2])))


@pytest.mark.parametrize("trigger", ["uncertainty", "random", "always", "never"])
@pytest.mark.parametrize("router", ["random", "oracle"])
def test_the_command_line_chooses_router_and_trigger(compose_small, router, trigger, tmp_path):
    rate = ["trigger.rate=0.5"] if trigger == "random" else []
    config = compose_small(f"router={router}", f"trigger={trigger}", *rate)
    metrics = evaluate_command(config)
    assert metrics["n"] == 2
    for _, row in read_jsonl(tmp_path / "predictions.jsonl"):
        routed = dict.fromkeys(id for at in row["routed"] for id in at["passage_ids"])
        gold = next(question.passage_ids for question in QUESTIONS if question.id == row["id"])
        assert row["passage_ids"] == list(gold[:3] if router == "oracle" else routed)
        assert len(row["weights"]) == len(row["passage_ids"])


def test_experts_of_other_texts_are_an_error(compose_small, tmp_path):
    other = [replace(passage, text=f"{passage.text}!") for passage in PASSAGES.values()]
    config = compose_small("router=random")
    write_data(tmp_path / "data", other)
    with pytest.raises(BankError, match="was made of another text than the corpus has"):
        evaluate_command(config)


def test_routing_that_finds_no_expert_at_all_is_said(compose_small, bank_dir, caplog):
    evaluate_command(compose_small("router=oracle", "trigger=always"))
    assert "no expert was ever routed" not in caplog.text
    Bank.open(bank_dir).remove(["p0", "p1", "p3"])
    metrics = evaluate_command(compose_small("router=oracle", "trigger=always"))
    assert metrics["routed_gold"] == 0
    assert "no expert was ever routed" in caplog.text


def test_a_bank_of_other_passages_than_the_gold_ones_is_said(compose_small, bank_dir, caplog):
    evaluate_command(compose_small("router=random", "limit=1"))
    assert "gold passages" not in caplog.text
    Bank.open(bank_dir).remove(["p0", "p1", "p3"])
    evaluate_command(compose_small("router=random"))
    assert f"none of 3 gold passages (0 %) have their id in the bank {bank_dir}" in caplog.text


def test_an_empty_bank_is_an_error(tiny_backbone, bank_dir):
    Bank.open(bank_dir).remove(list(PASSAGES))
    with pytest.raises(BankError, match="expected experts, got an empty bank; build it"):
        load_dmoe(tiny_backbone, bank_dir, **SETTINGS)


def test_passages_that_change_nothing_are_said(compose_small, caplog):
    evaluate_command(compose_small("router=random", "passages=shuffled"))
    assert "passages=shuffled changes nothing" in caplog.text
    caplog.clear()
    evaluate_command(compose_small("router=oracle", "passages=shuffled"))
    assert "changes nothing" not in caplog.text


def test_the_papers_settings_are_the_default(compose_small):
    config = compose_small("router=random")
    assert (config.method.experts, config.trigger.threshold, config.method.max_query_tokens) == (
        3,
        2,
        128,
    )
    assert compose_small("router=random", "k=5", "method.control=noise").method.experts == 5


@pytest.mark.parametrize("router", ["bm25", "dense"])
def test_a_router_by_retrieval_needs_its_index_and_its_surrogates(compose_small, router):
    with pytest.raises(
        ValueError, match=r"router\.corpus\.path, router\.retriever\.index_dir; give"
    ):
        evaluate_command(compose_small(f"router={router}"))


def test_a_router_by_retrieval_is_opened_over_the_surrogates(compose_small, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "surrogates.jsonl", map(asdict, PASSAGES.values()))
    monkeypatch.setattr(
        "retrieval.bm25.index.BM25Settings.open", lambda self, corpus: WordRetriever(corpus)
    )
    overrides = [
        *(f"router.corpus.path={tmp_path / 'surrogates.jsonl'}", "router.retriever.index_dir=x"),
        *(f"router.corpus.cache_dir={tmp_path / 'cache'}", "trigger=always"),
    ]
    assert evaluate_command(compose_small(*overrides))["n"] == 2


SETTINGS: dict = {"router": RandomRouter, "trigger": ConstantTrigger(True), "experts": 2}


def test_a_bank_on_disk_gives_what_its_experts_give(tiny_backbone, bank_dir):
    loaded = load_dmoe(tiny_backbone, bank_dir, **SETTINGS).answer(INPUTS)
    assert loaded == make_method(tiny_backbone, trigger=ConstantTrigger(True)).answer(INPUTS)


def test_a_bank_of_another_backbone_is_an_error(tiny_tokenizer, bank_dir):
    from tests.helpers.tiny import make_backbone

    with pytest.raises(BankError, match="got a bank for tiny-llama-0"):
        load_dmoe(make_backbone(seed=1, tokenizer=tiny_tokenizer), bank_dir, **SETTINGS)


def test_an_unknown_control_is_an_error(tiny_backbone, bank_dir):
    with pytest.raises(ValueError, match="control must be null or noise, got 'none'; set control"):
        load_dmoe(tiny_backbone, bank_dir, control="none", **SETTINGS)


def test_the_noise_control_takes_the_place_of_the_experts(tiny_backbone, bank_dir):
    def load(**settings):
        return load_dmoe(tiny_backbone, bank_dir, **SETTINGS, **settings)

    experts, noise, other = load(), load(control="noise"), load(control="noise", seed=1)
    assert (experts.decoder.routing.noise, noise.decoder.routing.noise) == (None, 0)
    answers = [method.answer(INPUTS) for method in (experts, noise, other)]
    for one, two in itertools.combinations(answers, 2):
        assert all(a.nll != b.nll for a, b in zip(one, two, strict=True))
    again = load(control="noise")
    assert again.answer(INPUTS) == noise.answer(INPUTS)
    # Alone, a question gets the same noise; some processors round a batch of one differently.
    (alone,) = again.answer(INPUTS[:1])
    assert alone.nll == pytest.approx(noise.answer(INPUTS)[0].nll, rel=1e-5)


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        ({}, "sum"),  # a bank that was imported
        ({"lr": 1e-5, "epochs": 1}, "sum"),  # recipe=paper
        ({"lr": 1e-5, "epochs": 10}, "router"),
        ({"lr": 1e-3, "epochs": 10}, "router"),  # recipe=tuned
    ],
)
def test_the_banks_recipe_decides_whether_experts_are_summed(recipe, weights):
    assert weights_for(None, recipe, experts=3) == weights


def test_the_sum_of_strong_experts_is_warned_of(caplog):
    tuned, paper = {"lr": 1e-3, "epochs": 10}, {"lr": 1e-5, "epochs": 1}
    for recipe, weights, experts in [(paper, "sum", 3), (tuned, "sum", 1), (tuned, "router", 3)]:
        assert weights_for(weights, recipe, experts) == weights
    assert not caplog.records
    assert weights_for("sum", tuned, 3) == "sum"
    (record,) = caplog.records
    assert "weights=sum with 3 experts is known to fail" in record.getMessage()


def test_unknown_weights_are_an_error(tiny_backbone, bank_dir):
    with pytest.raises(SettingValueError, match="weights must be one of sum, router, got 'mean'"):
        load_dmoe(tiny_backbone, bank_dir, weights="mean", **SETTINGS)


def test_predictions_have_the_weights_of_the_experts(tiny_backbone, bank_dir):
    for weights, expected in (("sum", [1.0, 1.0]), ("router", [0.5, 0.5])):
        method = load_dmoe(tiny_backbone, bank_dir, weights=weights, **SETTINGS)
        for prediction in method.answer([QuestionInput(input.question) for input in INPUTS]):
            assert set(prediction.details["weights"]) == set(expected)
            routed = {id for at in prediction.details["routed"] for id in at["passage_ids"]}
            assert set(prediction.details["passage_ids"]) == routed


@pytest.mark.parametrize("redraw", [True, False])
def test_a_random_router_never_gets_to_the_right_expert(tiny_backbone, redraw):
    router = partial(RandomRouter, redraw=redraw)
    question = replace(INPUTS[0].question, passage_ids=tuple(f"p{i}" for i in range(11)))
    method = make_method(tiny_backbone, router, ConstantTrigger(True))
    (prediction,) = method.answer([QuestionInput(question)])
    assert {id for at in prediction.details["routed"] for id in at["passage_ids"]} == {"p11"}
    assert method.measure([prediction])["routed_gold"] == 0
