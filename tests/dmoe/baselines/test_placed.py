"""Experts on the FFNs of the final layers: their places, and the routing of passages."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from hydra.utils import instantiate

from backbone.final_ffn import FinalFFN
from dmoe.baselines.placed import load_placed
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.baselines.prag.method import load_prag
from dmoe.baselines.prag.training import train_adapter
from dmoe.decoding.router import OracleRouter, RandomRouter, RetrievalRouter
from dmoe.experts.expert import ExpertError, ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer
from dmoe.training.instances import Encoded
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import QADataset, Question, save_folder
from qa.method import BaseMethod, QuestionInput
from qa.passages.source import Selection
from retrieval.passage import Passage
from tests.helpers.fakes import WordRetriever
from tests.helpers.tiny import make_backbone

PASSAGES = {
    "p0": Passage("p0", "Tova Blick", "Tova Blick was born in Lisbon."),
    "p1": Passage("p1", "Fox", "The quick brown fox plays violins."),
    "bare": Passage("bare", "Violins", "Who plays violins? Of this there is no question."),
}
QUESTIONS = [
    Question("q0", "Where was Tova Blick born?", ("Lisbon",), ("p0",)),
    Question("q1", "Who plays violins?", ("the quick brown fox",), ("p1",)),
]
GOLD = [
    QuestionInput(question, Selection.uniform([PASSAGES[question.passage_ids[0]]]))
    for question in QUESTIONS
]
UNGIVEN = [QuestionInput(question) for question in QUESTIONS]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def instances(count=3):
    draw = random.Random(0)
    return [
        Encoded(tuple(draw.randrange(3, 300) for _ in range(draw.randrange(4, 12))), 2)
        for _ in range(count)
    ]


def words(ids):
    """Make a router to the passages that share the most words with the question."""
    return RetrievalRouter(ids, WordRetriever(PASSAGES))


@pytest.fixture
def settings(tmp_path, no_sync):
    rows = [
        {
            "passage_id": id,
            "rewrite": None,
            "qa": [
                {"question": question.question, "answer": question.answers[0]}
                for question in QUESTIONS
                if id in question.passage_ids
            ],
        }
        for id in PASSAGES
    ]
    write_jsonl(tmp_path / "augmentations.jsonl", rows)
    return {
        "augmentation": tmp_path / "augmentations.jsonl",
        "formats": ["qa"],
        "expert": {},
        "recipe": {"lr": 1e-2, "epochs": 6},
        "cache_dir": tmp_path / "cache",
    }


@pytest.fixture
def make(tiny_backbone, settings):
    def method(placement=0.0, router=words, **changes):
        given = {**settings, "experts": 1, **changes}
        return load_placed(tiny_backbone, placement, router, PASSAGES, **given)

    return method


@pytest.mark.parametrize(
    ("placement", "layers"),
    [
        (0, [7]),
        (0.05, [7]),
        (0.25, [6, 7]),
        (0.3, [6, 7]),
        (0.75, [*range(2, 8)]),
        (1, [*range(8)]),
    ],
)
def test_a_placement_is_a_share_of_the_final_layers(placement, layers, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer, num_hidden_layers=8)
    ffns = LayerFFNs(backbone, placement)
    assert ffns.layers == layers
    assert list(ffns.projections) == [f"{n}.{t}" for n in layers for t in ("gate", "up", "down")]
    assert (
        ffns.initial(ExpertSpec(), 0).keys() <= LayerFFNs(backbone).initial(ExpertSpec(), 0).keys()
    )


@pytest.mark.parametrize("placement", [-0.1, 25, float("nan")])
def test_a_placement_out_of_range_is_an_error(placement, tiny_backbone):
    with pytest.raises(ExpertError, match=r"placement must be in 0\.\.1, got .*set plac"):
        LayerFFNs(tiny_backbone, placement)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_final_layer_alone_trains_as_the_experts_of_a_bank(tiny_backbone, batch_size):
    spec, recipe = ExpertSpec(), Recipe(lr=1e-2, epochs=4, batch_size=batch_size)
    ours = train_adapter(LayerFFNs(tiny_backbone, 0), instances(), spec, recipe)
    trainer = GroupedTrainer(FinalFFN(tiny_backbone), spec, recipe)
    theirs = trainer.train(["layer 1"], [instances()]).experts  # the id decides the initial expert
    assert ours.keys() == {f"1.{name}" for name in theirs}
    for name, tensor in theirs.items():
        assert (ours[f"1.{name}"] - tensor[0]).norm() < 1e-3 * tensor.norm()


def test_more_layers_learn_otherwise(tiny_backbone):
    spec, recipe = ExpertSpec(), Recipe(lr=1e-2, epochs=4)
    last, both = (
        train_adapter(LayerFFNs(tiny_backbone, placement), instances(), spec, recipe)
        for placement in (0, 1)
    )
    assert {name.partition(".")[0] for name in last} == {"1"}
    assert {name.partition(".")[0] for name in both} == {"0", "1"}
    assert (both["1.up.lora_B"] - last["1.up.lora_B"]).norm() > 1e-2 * last["1.up.lora_B"].norm()
    assert both["0.up.lora_B"].norm() > 0


def test_it_routes_once_for_the_question(make):
    method = make()
    asked = []
    route = method._router.route

    def note(requests, k):
        asked.append(requests)
        return route(requests, k)

    method._router.route = note
    predictions = method.answer(UNGIVEN)
    assert [[request.query for request in each] for each in asked] == [
        [question.question for question in QUESTIONS]
    ]
    # "bare" shares more words with the second question, but has nothing to train on.
    assert [each.details["routed"] for each in predictions] == [["p0"], ["p1"]]
    assert method.measure(predictions)["routed_gold"] == 100
    assert method.measure(predictions)["adapters_trained"] == 2
    assert not method.uses_passages
    assert method.answer([]) == []
    assert "routed_gold" not in method.measure([])


def test_long_questions_are_cut_as_routing_queries_are(make):
    (request,) = [make(max_query_tokens=2)._request(UNGIVEN[0])]
    assert QUESTIONS[0].question.endswith(request.query)
    assert len(request.query) < len(QUESTIONS[0].question)


def test_the_oracle_gets_what_the_evaluation_gives(make):
    method = make(router=OracleRouter)
    assert method.uses_passages
    swapped = [
        QuestionInput(a.question, b.selection) for a, b in zip(GOLD, reversed(GOLD), strict=True)
    ]
    own, other, none = (method.answer(inputs) for inputs in (GOLD, swapped, UNGIVEN))
    assert method.measure(own)["routed_gold"] == 100
    assert method.measure(other)["routed_gold"] == 0
    assert [each.details["routed"] for each in none] == [[], []]
    for mine, wrong in zip(own, other, strict=True):
        assert mine.nll < wrong.nll - 0.5


def test_a_corpus_of_other_passages_than_the_gold_ones_is_said(make, caplog):
    make().check_passages(PASSAGES.values())
    assert not caplog.text
    make().check_passages([Passage("x", "", "another")])
    assert "none of 1 gold passages (0 %) have their id in the corpus, and 'x'" in caplog.text


@pytest.mark.parametrize("placement", [0, 1])
def test_it_is_prag_on_what_was_routed(make, settings, tiny_backbone, placement):
    theirs = load_prag(tiny_backbone, placement=placement, **settings).answer(GOLD)
    ours = make(placement, OracleRouter).answer(GOLD)
    assert [each.text for each in ours] == [each.text for each in theirs]
    assert [each.nll for each in ours] == [each.nll for each in theirs]


def test_placements_do_not_share_adapters(make):
    last, both = make(0), make(1)
    one, two = last.answer(UNGIVEN), both.answer(UNGIVEN)
    assert (last.adapters.trained, both.adapters.trained) == (2, 2)
    assert one[0].nll != two[0].nll
    again = make(0.5)  # half of two layers is the last one
    assert again.answer(UNGIVEN) == one
    assert (again.adapters.trained, again.adapters.read) == (0, 2)


def test_the_backbone_stays_as_it_is(make, tiny_backbone):
    logits = tiny_backbone.model(IDS).logits
    base = BaseMethod(tiny_backbone).answer(UNGIVEN)
    assert make(1).answer(UNGIVEN)[0].nll < base[0].nll - 0.5
    assert torch.equal(tiny_backbone.model(IDS).logits, logits)


def test_settings_are_checked(make):
    for lacking in ("augmentation", "formats", "expert", "recipe"):
        with pytest.raises(ValueError, match=r"placed needs .*ablation\.py ablation=placement$"):
            make(**{lacking: None})
    with pytest.raises(ValueError, match="method=placed has no passages in the prompt, got rag"):
        make(rag=True)
    with pytest.raises(ValueError, match="experts must be positive, got 0; set experts"):
        make(experts=0)
    with pytest.raises(ValueError, match="max_query_tokens must be positive"):
        make(max_query_tokens=0)
    assert make(router=partial(RandomRouter, seed=1)).answer(UNGIVEN)


@pytest.mark.parametrize("named", [True, False])
def test_passages_are_those_of_the_corpus_or_of_the_data(named, tmp_path):
    save_folder(QADataset("people", PASSAGES, {"dev": QUESTIONS}), tmp_path / "data")
    corpus = tmp_path / "corpus.jsonl"
    write_jsonl(corpus, [{"id": "x", "title": "", "text": "Another corpus."}])
    passages = instantiate(
        {
            "_target_": "qa.commands.corpus.corpus_passages",
            "_recursive_": False,
            "data": {"_target_": "qa.data.dataset.load_folder", "dir": str(tmp_path / "data")},
            "corpus": {
                "_target_": "retrieval.corpus.corpus.Corpus.open",
                "path": str(corpus) if named else None,
                "cache_dir": str(tmp_path / "cache"),
            },
        }
    )
    assert set(passages) == ({"x"} if named else set(PASSAGES))
