"""PRAG: adapters know their passages, are merged for each row, and are trained only once."""

from __future__ import annotations

import copy
import json
import logging
import random
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbone.model import Backbone, UnsupportedBackboneError
from dmoe.baselines.prag.adapters import (
    NoAugmentationError,
)
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.baselines.prag.method import PRAGMethod, load_prag
from dmoe.baselines.prag.training import train_adapter
from dmoe.experts.expert import ExpertError, ExpertSpec, stack_experts
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, label_loss, pad_instances
from dmoe.training.lessons import InstancesError
from plumbing.storage.jsonl import read_jsonl, write_jsonl
from plumbing.storage.tensors import read_tensors
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import QADataset, Question, save_folder
from qa.method import BaseMethod, QuestionInput, RAGMethod
from qa.passages.source import Selection
from retrieval.passage import Passage
from tests.helpers.fakes import WordRetriever
from tests.helpers.tiny import make_backbone

CONF = str(Path(__file__).parents[4] / "conf")
PASSAGES = [
    Passage("p0", "Tova Blick", "Tova Blick was born in Lisbon."),
    Passage("../../p1", "Fox", "The quick brown fox plays violins."),
    Passage("p2", "Surgeon", "The surgeon worked in the old town by the sea."),
    Passage("bare", "Nothing", "Of this there is no question."),
]
QUESTIONS = [
    Question("q0", "Where was Tova Blick born?", ("Lisbon",), ("p0",)),
    Question("q1", "Who plays violins?", ("the quick brown fox",), ("../../p1",)),
    Question("q2", "Where did the surgeon work?", ("old town",), ("p2",)),
]
INPUTS = [
    QuestionInput(question, Selection.uniform(passages))
    for question, passages in zip(
        QUESTIONS, [PASSAGES[:1], [PASSAGES[1], PASSAGES[2]], []], strict=True
    )
]
SPEC, RECIPE = ExpertSpec(), Recipe(lr=1e-2, epochs=6)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def instances(seed=0, count=3):
    draw = random.Random(seed)
    return [
        Encoded(tuple(draw.randrange(3, 300) for _ in range(draw.randrange(4, 12))), 2)
        for _ in range(count)
    ]


@pytest.fixture
def augmentation(tmp_path):
    rows = [
        {
            "passage_id": passage.id,
            "rewrite": f"In other words: {passage.text}",
            "qa": [
                {"question": question.question, "answer": question.answers[0]}
                for question in QUESTIONS
                if passage.id in question.passage_ids
            ],
        }
        for passage in PASSAGES
    ]
    write_jsonl(tmp_path / "augmentations.jsonl", rows)
    return tmp_path / "augmentations.jsonl"


@pytest.fixture
def make(tiny_backbone, augmentation, tmp_path, no_sync):
    def method(backbone=tiny_backbone, expert=None, recipe=None, formats=("qa",), **settings):
        return load_prag(
            backbone,
            augmentation=augmentation,
            formats=formats,
            expert=expert or {},
            recipe={"lr": 1e-2, "epochs": 6, **(recipe or {})},
            cache_dir=tmp_path / "cache",
            **settings,
        )

    return method


def files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("family", "placement"), [("llama", 1), ("gemma2", 1), ("gpt_neox", 1), ("llama", 0)]
)
def test_training_equals_peft(family, placement, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    ffns = LayerFFNs(backbone, placement)
    targets = [t for t in ("gate", "up", "down") if f"1.{t}" in ffns.projections]
    spec = ExpertSpec(2, 6.0, targets)
    names = {id(module): name for name, module in backbone.model.named_modules()}
    places = {target: names[id(module)] for target, module in ffns.projections.items()}
    recipe = Recipe(lr=1e-2, epochs=3, batch_size=2)
    adapter = train_adapter(ffns, instances(), spec, recipe)

    config = LoraConfig(r=2, lora_alpha=6, target_modules=list(places.values()))
    theirs = get_peft_model(copy.deepcopy(backbone.model), config)
    factors = {
        name: theirs.get_parameter(
            f"base_model.model.{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"
            ".default.weight"
        )
        for name in adapter
    }
    with torch.no_grad():
        for name, tensor in ffns.initial(spec, recipe.seed).items():
            factors[name].copy_(tensor)
    optimizer = torch.optim.AdamW(factors.values(), lr=1e-2, weight_decay=0.01)
    for _ in range(3):
        for batch in (instances()[:2], instances()[2:]):
            optimizer.zero_grad()
            theirs(**pad_instances(batch)).loss.backward()
            optimizer.step()
    for name, tensor in adapter.items():
        assert (factors[name] - tensor).norm() < 1e-3 * tensor.norm()


def test_one_adapter_gives_pefts_logits(make, tiny_backbone):
    from peft import LoraConfig, get_peft_model

    method = make()
    adapter = method.adapters.load(PASSAGES[:1])["p0"]
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["gate_proj", "up_proj", "down_proj"])
    theirs = get_peft_model(copy.deepcopy(tiny_backbone.model), config)
    with torch.no_grad():
        for name, tensor in adapter.items():
            layer, target, matrix = name.split(".")
            path = f"base_model.model.model.layers.{layer}.mlp.{target}_proj.{matrix}"
            theirs.get_parameter(f"{path}.default.weight").copy_(tensor)
    with method.injected(INPUTS[:1]):
        ours = tiny_backbone.model(IDS).logits
    torch.testing.assert_close(ours, theirs(IDS).logits, rtol=1e-4, atol=1e-4)


def test_several_adapters_are_the_sum_of_their_outputs(make, tiny_backbone):
    method = make()
    adapters = method.adapters.load(PASSAGES[1:3])
    merged = Backbone(copy.deepcopy(tiny_backbone.model), None, "merged")
    with torch.no_grad():
        for name, projection in LayerFFNs(merged).projections.items():
            for adapter in adapters.values():
                a, b = adapter[f"{name}.lora_A"], adapter[f"{name}.lora_B"]
                projection.weight.add_(SPEC.scaling * b @ a)
    with method.injected(INPUTS[1:2]):
        ours = tiny_backbone.model(IDS).logits
    torch.testing.assert_close(ours, merged.model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_an_adapter_knows_its_passage(make, tiny_backbone):
    inputs = [
        QuestionInput(question, Selection.uniform([passage]))
        for question, passage in zip(QUESTIONS, PASSAGES, strict=False)
    ]
    others = [
        QuestionInput(one.question, two.selection)
        for one, two in zip(inputs, inputs[1:] + inputs[:1], strict=True)
    ]
    method = make()
    base = BaseMethod(tiny_backbone).answer(inputs)
    own, shuffled = method.answer(inputs), method.answer(others)
    for row, mine, other in zip(base, own, shuffled, strict=True):
        assert mine.nll < row.nll - 1
        assert mine.nll < other.nll - 1


@pytest.mark.parametrize("rag", [False, True])
def test_a_batch_is_its_rows(make, tiny_backbone, rag):
    method = make(rag=rag, max_new_tokens=6)
    together = method.answer(INPUTS)
    alone = [method.answer([input])[0] for input in INPUTS]
    assert [p.text for p in together] == [p.text for p in alone]
    assert [p.nll for p in together] == pytest.approx([p.nll for p in alone], rel=1e-4)
    plain = RAGMethod(tiny_backbone) if rag else BaseMethod(tiny_backbone)
    (base,) = plain.answer(INPUTS[2:])
    assert together[2].nll == pytest.approx(base.nll, rel=1e-4)  # the last input has no passage
    assert method.answer([]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backbone_stays_as_it_is(make, tiny_backbone, dtype):
    model = copy.deepcopy(tiny_backbone.model).to(dtype)
    backbone = Backbone(model, tiny_backbone.tokenizer, "copy")
    before, logits = copy.deepcopy(model.state_dict()), model(IDS).logits
    hooks = [len(module._forward_hooks) for module in model.modules()]  # transformers' own
    method = make(backbone)
    method.answer(INPUTS)
    assert method.adapters.trained == 3
    assert torch.equal(model(IDS).logits, logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    adapter = method.adapters.load(PASSAGES[:1])["p0"]
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


def test_nothing_is_trained_twice(make, tmp_path):
    first = make()
    answers = first.answer(INPUTS)
    assert first.measure(answers)["adapters_trained"] == len(files(tmp_path)) == 3
    assert first.measure(answers)["training_seconds"] > 0
    again = make()
    assert again.answer(INPUTS) == answers
    assert again.measure(answers) == {
        "adapters_trained": 0,
        "adapters_read": 3,
        "passages_without_adapter": 0,
        "training_seconds": 0.0,
    }


def test_whatever_decides_an_adapter_is_in_its_key(make, tiny_tokenizer, tiny_backbone, tmp_path):
    half = Backbone(copy.deepcopy(tiny_backbone.model).bfloat16(), tiny_tokenizer, "half")
    others = [
        make(make_backbone(seed=1, tokenizer=tiny_tokenizer)),
        make(half),
        make(expert={"rank": 2}),
        make(recipe={"lr": 2e-2}),
        make(recipe={"seed": 1}),
        make(formats=["qa", "qa_with_rewrite"]),
        make(placement=0),
    ]
    for count, method in enumerate([make(), *others], 1):
        method.adapters.load(PASSAGES[:1])
        assert len(files(tmp_path)) == count
    make().adapters.load([Passage("p0", "Tova Blick", "Another text.")])
    assert len(files(tmp_path)) == len(others) + 2
    same = make()
    same.adapters.load([PASSAGES[0], PASSAGES[0]])
    assert (same.adapters.trained, same.adapters.read) == (0, 1)


def test_ids_are_no_paths(make, tmp_path):
    make().answer(INPUTS)
    assert not list(tmp_path.rglob("*p1*"))
    assert all(path.parent.parent == tmp_path / "cache" for path in files(tmp_path))
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 3


def test_a_damaged_file_is_trained_again(make, tmp_path, caplog):
    first = make().adapters.load(PASSAGES[:1])["p0"]
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    method = make()
    with caplog.at_level(logging.WARNING):
        again = method.adapters.load(PASSAGES[:1])["p0"]
    assert "is damaged" in caplog.text
    assert "the adapter is trained again" in caplog.text
    assert method.adapters.trained == 1
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert read_tensors(path).keys() == first.keys()


def test_a_passage_that_was_not_augmented_is_named(make):
    stranger = QuestionInput(QUESTIONS[0], Selection.uniform([Passage("x" * 99, "", "text")]))
    with pytest.raises(NoAugmentationError, match=r"passage 'x+\.\.\.' is not in .*augment\.py"):
        make().answer([stranger])


def test_a_passage_without_instances_has_no_adapter(make, tiny_backbone, caplog):
    input = QuestionInput(QUESTIONS[0], Selection.uniform([PASSAGES[3]]))
    method = make()
    with caplog.at_level(logging.WARNING):
        answers = [*method.answer([input]), *method.answer([input])]
    assert caplog.text.count("passage 'bare' gives no instances of qa; it has no adapter") == 1
    (base,) = BaseMethod(tiny_backbone).answer([input])
    assert answers[0].nll == answers[1].nll == pytest.approx(base.nll)
    assert method.measure(answers)["passages_without_adapter"] == 1
    assert make(formats=["passage"]).adapters.load([PASSAGES[3]]).keys() == {"bare"}


def test_settings_are_checked(make, tiny_tokenizer):
    with pytest.raises(ExpertError, match="rank must be positive"):
        make(expert={"rank": 0})
    with pytest.raises(InstancesError, match="formats must be some of"):
        make(formats=["cot"])
    with pytest.raises(ValueError, match="lr must be finite"):
        make(recipe={"lr": float("nan")})
    plain = make_backbone("gpt_neox", tokenizer=tiny_tokenizer)
    with pytest.raises(ExpertError, match="this FFN has no 'gate' projection"):
        make(plain)
    mixture = make_backbone("olmoe", tokenizer=tiny_tokenizer, num_experts=4, num_experts_per_tok=2)
    with pytest.raises(UnsupportedBackboneError, match="is a sparse block"):
        make(mixture)


def test_what_diverges_is_an_error(tiny_backbone):
    with pytest.raises(ExpertError, match=r"diverged; lower recipe\.lr"):
        train_adapter(LayerFFNs(tiny_backbone), instances(), SPEC, Recipe(lr=1e25, epochs=3))


def test_the_loss_is_of_all_labels_together(tiny_backbone):
    adapter = train_adapter(LayerFFNs(tiny_backbone), instances(), SPEC, RECIPE)
    ffns = LayerFFNs(tiny_backbone)
    batch = pad_instances(instances())
    before = label_loss(tiny_backbone, batch)

    def term(name, x):
        return SPEC.scaling * x @ adapter[f"{name}.lora_A"].mT @ adapter[f"{name}.lora_B"].mT

    with ffns.adding(term, ffns.projections):
        assert label_loss(tiny_backbone, batch) < before - 0.5
    assert stack_experts([adapter])["0.gate.lora_A"].shape == (1, 4, 32)


@pytest.fixture
def command(augmentation, tiny_backbone, tmp_path, monkeypatch, no_sync):
    """Return a function that evaluates with the passages nearest to each question by words."""
    monkeypatch.setattr("backbone.load_backbone", lambda **settings: tiny_backbone)
    passages = {passage.id: passage for passage in PASSAGES}
    save_folder(QADataset("people", passages, {"dev": QUESTIONS}), tmp_path / "data")
    monkeypatch.setattr(
        "retrieval.bm25.index.BM25Settings.open", lambda self, corpus: WordRetriever(corpus)
    )

    def run(*overrides):
        given = [
            *("method=prag", "data=local", f"data.dir={tmp_path / 'data'}", "passages=retrieved"),
            *("retriever=bm25", "retriever.index_dir=x", "max_new_tokens=3"),
            *(f"corpus.path={tmp_path / 'data' / 'passages.jsonl.gz'}",),
            *(f"instances.augmentation={augmentation}", f"paths.cache_dir={tmp_path / 'cache'}"),
            *(f"paths.output_dir={tmp_path / 'run'}", "k=2"),
        ]
        with initialize_config_dir(CONF, version_base="1.3"):
            return evaluate_command(compose("evaluate", [*given, *overrides]))

    return run


@pytest.mark.parametrize("rag", ["true", "false"])
def test_the_command_evaluates_on_retrieved_passages(command, rag, tmp_path):
    first = command(f"rag={rag}", "recipe=tuned")
    assert first["adapters_trained"] == 3
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "predictions.jsonl")]
    assert all(row["passage_ids"] for row in rows)
    again = command(f"rag={rag}", "recipe=tuned")
    assert again["adapters_trained"] == 0
    assert again["nll"] == pytest.approx(first["nll"])
    untrained = command(f"rag={rag}", "recipe=tuned", "recipe.lr=0")
    assert first["nll"] < untrained["nll"] - 0.5
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == untrained


@pytest.mark.parametrize(
    ("method", "key"), [("prag", "instances.augmentation"), ("sft_lora", "adapter_dir")]
)
def test_a_setting_without_a_value_is_named(method, key, tmp_path):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("evaluate", [f"method={method}", f"paths.output_dir={tmp_path}"])
    with pytest.raises(ValueError, match=f"^expected a value for {key}; give {key}=…$"):
        evaluate_command(config)


def test_by_default_the_recipe_is_that_of_the_experts_and_the_passages_stand_in_the_prompt():
    with initialize_config_dir(CONF, version_base="1.3"):
        given = ["method=prag", "instances.augmentation=x", "paths.output_dir=out"]
        method = compose("evaluate", given).method
        tuned = compose("evaluate", [*given, "recipe=tuned", "expert.rank=2"]).method
    assert (method.recipe.lr, method.recipe.epochs, method.recipe.loss) == (1e-5, 1, "all")
    assert (method.expert.rank, method.expert.alpha, method.rag) == (4, 16, True)
    assert list(method.formats) == ["qa_with_passage", "qa_with_rewrite", "qa"]
    assert (tuned.expert.rank, tuned.recipe.epochs, list(tuned.formats)) == (2, 10, ["qa"])


def test_it_is_a_method_like_the_others(make):
    assert isinstance(make(), PRAGMethod)
    assert make().uses_passages
