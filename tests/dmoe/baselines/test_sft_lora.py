"""SFT-LoRA: one adapter, on dense backbones and mixtures of experts, which stay as they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer
from safetensors.torch import load_file

from backbone.final_ffn import FinalFFN
from backbone.lora.adapter import RECORD, LoraAdapter, LoraSettings
from backbone.lora.settings import CONFIG, WEIGHTS, AdapterError
from backbone.lora.targets import lora_targets
from backbone.model import Backbone, UnsupportedBackboneError
from dmoe.baselines.sft_lora.method import SFTLoRAMethod
from dmoe.baselines.sft_lora.module import MixedBatches, SFTModule
from dmoe.commands.train_sft_lora import train_sft_lora
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, label_loss, pad_instances
from plumbing.training.checkpoint import CheckpointError
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import Question
from qa.method import BaseMethod, QuestionInput
from tests.helpers.tiny import make_backbone

CONF = str(Path(__file__).parents[3] / "conf")
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
QUESTIONS = [
    Question("q0", "Where was Tova Blick born?", ("Lisbon",)),
    Question("q1", "Who plays violins?", ("the quick brown fox",)),
]
INPUTS = [QuestionInput(question) for question in QUESTIONS]
MOE = {"num_experts": 4, "num_experts_per_tok": 2}

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning",
)


@pytest.fixture(params=["llama", "gemma2", "olmoe"])
def backbone(request, tiny_tokenizer):
    more = MOE if request.param == "olmoe" else {}
    return make_backbone(request.param, tokenizer=tiny_tokenizer, **more)


@pytest.fixture
def olmoe(tiny_tokenizer):
    return make_backbone("olmoe", tokenizer=tiny_tokenizer, **MOE)


def randomize(adapter):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.normal_(std=0.2)
    return adapter


def state(model):
    """Describe a model by its modules, its parameters in their order, and its attributes."""
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        [(name, p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()],
        set(vars(model)),
    )


def test_what_is_removed_leaves_nothing(backbone):
    before, logits = state(backbone.model), backbone.model(IDS).logits
    weights = copy.deepcopy(backbone.model.state_dict())
    adapter = randomize(LoraAdapter.new(backbone, LoraSettings()))
    assert state(backbone.model) == before
    with adapter.attached():
        changed = backbone.model(IDS).logits
        changed.sum().backward()
    assert not torch.allclose(changed, logits, atol=0.1)
    assert all(parameter.grad is not None for parameter in adapter.parameters.values())
    assert state(backbone.model) == before
    assert torch.equal(backbone.model(IDS).logits, logits)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    again = LoraAdapter.new(backbone, LoraSettings())  # the first one has left nothing behind
    with again.attached():
        assert torch.equal(backbone.model(IDS).logits, logits)  # an untrained adapter adds zero


def test_an_error_inside_removes_it_too(tiny_backbone):
    before = state(tiny_backbone.model)
    with pytest.raises(KeyError), LoraAdapter.new(tiny_backbone, LoraSettings()).attached():
        raise KeyError
    assert state(tiny_backbone.model) == before


def test_peft_reads_what_is_saved_and_so_do_we(backbone, tmp_path):
    from peft import PeftModel

    adapter = randomize(LoraAdapter.new(backbone, LoraSettings(2, 3.0)))
    with adapter.attached():
        expected = backbone.model(IDS).logits
    adapter.save(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    theirs = PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(tmp_path / "adapter"))
    torch.testing.assert_close(theirs(IDS).logits, expected)
    loaded = LoraAdapter.load(tmp_path / "adapter", backbone)
    with loaded.attached():
        assert torch.equal(backbone.model(IDS).logits, expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters.values())
    with pytest.raises(AdapterError, match="exists; remove it, or choose another folder"):
        adapter.save(tmp_path / "adapter")


def test_a_bfloat16_backbone_has_a_float32_adapter(backbone):
    half = Backbone(copy.deepcopy(backbone.model).to(torch.bfloat16), backbone.tokenizer, "half")
    adapter = randomize(LoraAdapter.new(half, LoraSettings()))
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    with adapter.attached():
        logits = half.model(IDS).logits
        logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert all(bool(p.grad.isfinite().all()) for p in adapter.parameters.values())


def test_a_dense_ffn_has_its_projections_and_a_mixture_its_experts(tiny_backbone, olmoe):
    dense = lora_targets(tiny_backbone, ["gate", "down"])
    assert dense.parameters == []
    assert dense.modules == [
        f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "down")
    ]
    mixture = lora_targets(olmoe, ["gate", "up", "down"])
    assert mixture.modules == []
    assert mixture.parameters == [
        f"model.layers.{layer}.mlp.experts.{name}"
        for layer in (0, 1)
        for name in ("gate_up_proj", "down_proj")
    ]
    attention = lora_targets(olmoe, ["down", "attention"])
    assert len(attention.modules) == 8
    assert all(".self_attn." in name for name in attention.modules)


def test_experts_that_are_modules_are_found_too(tiny_backbone, tiny_tokenizer):
    model = copy.deepcopy(tiny_backbone.model)
    for layer in model.model.layers:
        layer.mlp = torch.nn.ModuleDict(
            {"experts": torch.nn.ModuleList([layer.mlp, copy.deepcopy(layer.mlp)])}
        )
    found = lora_targets(Backbone(model, tiny_tokenizer, "old"), ["up"]).modules
    assert found == [
        f"model.layers.{layer}.mlp.experts.{expert}.up_proj"
        for layer in (0, 1)
        for expert in (0, 1)
    ]


def test_what_fits_nothing_is_named(olmoe, tiny_tokenizer):
    with pytest.raises(
        UnsupportedBackboneError, match=r"gate and up as one parameter.*among the targets"
    ):
        lora_targets(olmoe, ["gate"])
    plain = make_backbone("gpt_neox", tokenizer=tiny_tokenizer)
    with pytest.raises(UnsupportedBackboneError, match="nothing in layer 0 for the target 'gate'"):
        lora_targets(plain, ["gate", "up"])
    assert len(lora_targets(plain, ["up", "down", "attention"]).modules) == 8
    with pytest.raises(UnsupportedBackboneError, match="experts cannot be placed in it"):
        FinalFFN(olmoe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"rank must be positive, got 0; set rank"),
        ({"alpha": 0.0}, r"alpha must be positive, got 0.0; set alpha"),
        ({"targets": ["router"]}, r"targets must be some of gate, up, down, attention"),
        ({"targets": []}, r"got \[\]; set targets"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(AdapterError, match=message):
        LoraSettings(**settings)


@pytest.fixture
def adapter_dir(tiny_backbone, tmp_path):
    randomize(LoraAdapter.new(tiny_backbone, LoraSettings())).save(tmp_path / "adapter")
    return tmp_path / "adapter"


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


def test_another_backbone_is_an_error(adapter_dir, tiny_tokenizer):
    other = make_backbone(seed=1, tokenizer=tiny_tokenizer)
    with pytest.raises(AdapterError, match=r"of tiny-llama-1 .* got one of tiny-llama-0"):
        LoraAdapter.load(adapter_dir, other)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, RECORD])
def test_a_missing_file_is_named(name, adapter_dir, tiny_backbone):
    (adapter_dir / name).unlink()
    with pytest.raises(AdapterError, match=rf"found no {name}; give its run folder's adapter"):
        LoraAdapter.load(adapter_dir, tiny_backbone)


def test_damage_is_an_error(adapter_dir, tiny_backbone):
    weights = bytearray((adapter_dir / WEIGHTS).read_bytes())
    weights[-5] ^= 1
    (adapter_dir / WEIGHTS).write_bytes(weights)
    with pytest.raises(AdapterError, match="is not what was written; train the adapter again"):
        LoraAdapter.load(adapter_dir, tiny_backbone)
    for text in ("{", "[]", "{}"):
        (adapter_dir / RECORD).write_text(text)
        with pytest.raises(AdapterError, match=f"{RECORD} is damaged"):
            LoraAdapter.load(adapter_dir, tiny_backbone)


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


def test_the_mixture_of_the_paper_composes():
    config = composed("train_sft_lora", "backbone=olmoe_1b_7b", "paths.output_dir=out")
    assert config.backbone.name == "allenai/OLMoE-1B-7B-0125-Instruct"
    assert (config.lora.rank, config.lora.alpha, config.recipe.lr) == (4, 16, 1e-5)
    evaluated = composed("evaluate", "method=sft_lora", "adapter_dir=x", "backbone=olmoe_1b_7b")
    assert evaluated.method.adapter_dir == "x"
