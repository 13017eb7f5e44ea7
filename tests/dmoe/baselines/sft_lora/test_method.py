"""SFT-LoRA: one adapter, on dense backbones and mixtures of experts, which stay as they are."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Trainer
from safetensors.torch import load_file

from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.lora.settings import WEIGHTS, AdapterError
from dmoe.baselines.sft_lora.method import SFTLoRAMethod
from dmoe.baselines.sft_lora.module import MixedBatches, SFTModule
from dmoe.commands.train_sft_lora import train_sft_lora
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, label_loss, pad_instances
from plumbing.training.checkpoint import CheckpointError
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import QADataset, Question, save_folder
from qa.method import BaseMethod, QuestionInput
from tests.helpers.adapters import FAMILIES, adapted_backbone, save_adapter, state
from tests.helpers.tiny import make_backbone

CONF = str(Path(__file__).parents[4] / "conf")
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
QUESTIONS = [
    Question("q0", "Where was Tova Blick born?", ("Lisbon",)),
    Question("q1", "Who plays violins?", ("the quick brown fox",)),
]
INPUTS = [QuestionInput(question) for question in QUESTIONS]

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning",
)


@pytest.fixture(params=FAMILIES)
def backbone(request, tiny_tokenizer):
    return adapted_backbone(request.param, tiny_tokenizer)


@pytest.fixture
def adapter_dir(tiny_backbone, tmp_path):
    return save_adapter(tiny_backbone, tmp_path / "adapter")


def test_the_method_answers_and_leaves_the_backbone_alone(tiny_backbone, adapter_dir):
    before, logits = state(tiny_backbone.model), tiny_backbone.model(IDS).logits
    method = SFTLoRAMethod(tiny_backbone, adapter_dir, max_new_tokens=5)
    assert not method.uses_passages
    together = method.answer(INPUTS)
    alone = [method.answer([input])[0] for input in INPUTS]
    base = BaseMethod(tiny_backbone, max_new_tokens=5).answer(INPUTS)
    assert [p.text for p in together] == [p.text for p in alone]
    assert [p.nll for p in together] == pytest.approx([p.nll for p in alone], rel=1e-4)
    assert all(m.nll != pytest.approx(b.nll) for m, b in zip(together, base, strict=True))
    assert state(tiny_backbone.model) == before
    assert torch.equal(tiny_backbone.model(IDS).logits, logits)


INSTANCES = [Encoded((5, 6, 7, *range(20 + i, 22 + i + i % 4)), 3) for i in range(11)]


def test_the_loss_is_peft_s_own(tiny_backbone):
    batch = pad_instances(INSTANCES[:4])
    assert label_loss(tiny_backbone, batch).item() == pytest.approx(
        tiny_backbone.model(**batch).loss.item(), rel=1e-5
    )


def test_batches_hold_everything_once_and_go_on_where_they_were():
    def batches(rank=0, ranks=1, position=(0, 0), size=3):
        chosen = MixedBatches(INSTANCES, size, 0, lambda: position, rank, ranks)
        found = [tuple(map(tuple, batch["input_ids"].tolist())) for batch in chosen]
        assert len(found) == len(chosen) - position[1]
        return found

    whole = batches()
    assert len(whole) == 3
    assert len({row for batch in batches(size=1) for row in batch}) == 11
    assert batches(position=(0, 2)) == whole[2:]
    assert batches(position=(1, 0)) != whole
    assert batches(0, 2) != batches(1, 2)
    assert len(batches(0, 2)) == len(batches(1, 2)) == 1
    with pytest.raises(ValueError, match="got 11 instances for 12 processes"):
        batches(0, 12)


def fit(backbone, tmp_path, epochs, lr=3e-2, instances=INSTANCES, ckpt_path=None):
    torch.manual_seed(0)
    adapter = LoraAdapter.new(backbone, LoraSettings())
    module = SFTModule(backbone, adapter, instances, Recipe(lr=lr, batch_size=4))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


def test_training_lowers_the_loss_and_touches_nothing_else(backbone, tmp_path):
    before = state(backbone.model)
    weights = copy.deepcopy(backbone.model.state_dict())
    batch = pad_instances(INSTANCES)
    first = label_loss(backbone, batch).item()
    module, _ = fit(backbone, tmp_path, 8)
    assert all("lora_" in name for name in module.state_dict())
    with module.adapter.attached():
        assert label_loss(backbone, batch).item() < first - 0.5
    assert state(backbone.model) == before
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_a_run_that_is_resumed_is_the_run(tiny_backbone, tiny_tokenizer, tmp_path):
    whole, _ = fit(tiny_backbone, tmp_path, 3)
    _, trainer = fit(tiny_backbone, tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed, _ = fit(tiny_backbone, tmp_path, 3, ckpt_path=tmp_path / "one.ckpt")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    other = make_backbone(seed=1, tokenizer=tiny_tokenizer)
    for changed, message in (
        ({"backbone": other}, "had another backbone"),
        ({"lr": 1e-3}, "had another recipe"),
        ({"instances": INSTANCES[:5]}, "had another instances"),
    ):
        settings = {"backbone": tiny_backbone, "ckpt_path": tmp_path / "one.ckpt", **changed}
        with pytest.raises(CheckpointError, match=message):
            fit(tmp_path=tmp_path, epochs=3, **settings)


def test_nothing_to_train_on_is_an_error(tiny_backbone):
    adapter = LoraAdapter.new(tiny_backbone, LoraSettings())
    with pytest.raises(ValueError, match=r"no instances to train on; give other aug"):
        SFTModule(tiny_backbone, adapter, [], Recipe())


def composed(name, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose(name, list(overrides))


@pytest.fixture
def model_dir(backbone, tmp_path):
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def small(model_dir, backbone):
    model = "olmoe_1b_7b" if "olmoe" in backbone.name else "smollm2_135m"
    return [
        *(f"backbone={model}", f"backbone.name={model_dir}", "backbone.dtype=float32"),
        *("data.train_entities=5", "data.dev_entities=2", "data.distractor_entities=0"),
    ]


@pytest.fixture
def train(small, tmp_path):
    def run(*overrides):
        given = [*small, f"paths.output_dir={tmp_path / 'run'}", "trainer=cpu", "logger=none"]
        given += ["~callbacks.progress_bar", "~callbacks.learning_rate", "recipe.batch_size=4"]
        return train_sft_lora(composed("train_sft_lora", *given, *overrides))

    return run


def test_the_commands_train_and_evaluate(train, small, tmp_path):
    metrics = train("recipe.lr=1e-2", "recipe.epochs=2")
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["instances"], metrics["steps"]) == (30, 14)

    def evaluate(*overrides):
        given = [*small, f"paths.output_dir={tmp_path}", "limit=3", "max_new_tokens=3"]
        return evaluate_command(composed("evaluate", *given, "split=train", *overrides))

    base = evaluate("method=base")
    tuned = evaluate("method=sft_lora", f"adapter_dir={tmp_path / 'run' / 'adapter'}")
    assert tuned["nll"] < base["nll"] - 0.2
    evaluate("method=sft_lora", f"adapter_dir={tmp_path / 'run' / 'adapter'}", "rag=true")


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize("backbone", ["llama"], indirect=True)
def test_the_command_goes_on_in_the_middle_of_an_epoch(train, tmp_path):
    long = ["recipe.lr=1e-2", "recipe.epochs=2", "callbacks.checkpoint.every_n_train_steps=3"]
    whole = train(*long, f"paths.output_dir={tmp_path / 'whole'}")
    train(*long, "+trainer.max_steps=3")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    on = train(*long, f"ckpt_path={checkpoint}", f"paths.output_dir={tmp_path / 'on'}")
    assert on["steps"] == whole["steps"] == 14
    one, other = (load_file(tmp_path / run / "adapter" / WEIGHTS) for run in ("whole", "on"))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


@pytest.mark.parametrize("backbone", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ckpt_path=last"], "ckpt_path must be a file, got 'last'"),
        (["lora.rank=0"], "rank must be positive"),
        (["recipe.epochs=0"], "epochs must be positive"),
        (["instances.formats=[cot]"], "formats must be some of"),
        (["instances.limit=0"], "limit must be a positive whole number or null"),
        (["data.train_entities=0"], "no instances to train on"),
    ],
)
def test_the_commands_settings_are_checked(train, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(*overrides)


@pytest.mark.parametrize("backbone", ["llama"], indirect=True)
def test_an_adapter_is_never_overwritten(train, tmp_path):
    train("instances.limit=1")
    with pytest.raises(AdapterError, match=r"exists; choose another hydra\.run\.dir"):
        train("instances.limit=1")


@pytest.mark.parametrize("backbone", ["llama"], indirect=True)
def test_rag_with_an_adapter_that_knows_the_form(train, small, tmp_path, monkeypatch):
    for name in ("bios", "squad"):
        config = composed("train_sft_lora", f"experiment=format/{name}")
        assert config.data == composed("evaluate", f"data={name}").data
        chosen = config.instances
        assert (chosen.formats, chosen.split) == (["qa_with_passage"], "train")
        assert (chosen.held_out_split, chosen.augmentation, chosen.limit) == ("dev", None, 100)
        assert config.recipe.loss == "answer"
    said: list = []
    monkeypatch.setattr(
        "dmoe.commands.train_sft_lora.next_command", lambda _, __, using, ___: said.append(using)
    )
    metrics = train("experiment=format/bios", "recipe.lr=1e-2", "recipe.epochs=2")
    assert metrics["instances"] == 30
    adapter = tmp_path / "run" / "adapter"
    assert said == [{"method": "rag", "adapter_dir": adapter}]

    def evaluate(*overrides):
        given = [*small, f"paths.output_dir={tmp_path}", "limit=3", "max_new_tokens=3"]
        return evaluate_command(composed("evaluate", *given, "method=rag", *overrides))

    plain, form = evaluate(), evaluate(f"adapter_dir={adapter}")
    assert form["nll"] < plain["nll"] - 0.2
    other = evaluate(f"adapter_dir={adapter}", "passages=shuffled")
    assert other["nll"] != form["nll"]


@pytest.mark.parametrize("backbone", ["llama"], indirect=True)
def test_evaluated_passages_are_never_trained_on(train, small, tmp_path):
    dataset = instantiate(composed("evaluate", *small).data)
    twins = {
        question.passage_ids[0]: question.passage_ids[0] + "x"
        for question in dataset.split("dev")[:1]
    }
    shared = [
        replace(question, id=f"{question.id}x", passage_ids=(twins[question.passage_ids[0]],))
        for question in dataset.split("dev")
        if question.passage_ids[0] in twins
    ]
    passages = {
        **dataset.passages,
        **{twin: replace(dataset.passages[id], id=twin) for id, twin in twins.items()},
    }
    splits = {**dataset.splits, "train": [*dataset.split("train"), *shared]}
    save_folder(QADataset("shared", passages, splits), tmp_path / "data")
    del small[3:]  # the sizes of bios
    wanted = ["data=local", f"data.dir={tmp_path / 'data'}"]
    assert train(*wanted)["instances"] == 36
    held_out = [*wanted, "instances.held_out_split=dev", f"paths.output_dir={tmp_path / 'held'}"]
    assert train(*held_out)["instances"] == 30
    with pytest.raises(ValueError, match=r"leave instances\.held_out_split out"):
        train("instances.augmentation=x.jsonl", *held_out[2:3], f"paths.output_dir={tmp_path}")


def test_the_mixture_of_the_paper_composes():
    config = composed("train_sft_lora", "backbone=olmoe_1b_7b", "paths.output_dir=out")
    assert config.backbone.name == "allenai/OLMoE-1B-7B-0125-Instruct"
    assert (config.lora.rank, config.lora.alpha, config.recipe.lr) == (4, 16, 1e-5)
    evaluated = composed("evaluate", "method=sft_lora", "adapter_dir=x", "backbone=olmoe_1b_7b")
    assert evaluated.method.adapter_dir == "x"
