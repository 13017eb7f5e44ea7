"""Meta-training: the loss, what learns, and the same weights however it is run."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything

from backbone.likelihood import answer_nll
from genpoe.experts import Experts
from genpoe.hypernet.hypernet import PassageTokens
from genpoe.hypernet.mean import MeanSettings
from genpoe.injection import ExpertLayer
from genpoe.model import BackboneMismatchError
from genpoe.training.datamodule import QADataModule
from genpoe.training.module import GenPoEModule
from genpoe.training.others import candidates, with_others
from genpoe.training.settings import OptimSettings
from plumbing.storage.jsonl import DataError
from plumbing.training.checkpoint import CheckpointError
from qa.data.bios import generate
from qa.data.dataset import QADataset, Question
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone


@pytest.fixture(scope="module")
def dataset():
    return generate(seed=0, train_entities=12, dev_entities=6, distractor_entities=0)


def make_module(backbone, **settings):
    seed_everything(0, verbose=False)
    defaults = {"rank": 2, "layer": 1, "hidden_width": 8, "lr": 1e-2, "warmup_steps": 2}
    values: dict[str, Any] = {**defaults, **settings}

    def of(cls):
        return cls(**{f.name: values.pop(f.name) for f in fields(cls) if f.name in values})

    hypernet, optim = of(MeanSettings).build(backbone), of(OptimSettings)
    return GenPoEModule(backbone, hypernet, optim, **values)


def fit(module, dataset, tmp_path, max_epochs=2, **settings):
    datamodule = QADataModule(
        dataset, module.backbone.tokenizer, passages_per_batch=4, questions_per_passage=3
    )
    defaults = {
        "accelerator": "cpu",
        "max_epochs": max_epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": tmp_path,
        "num_sanity_val_steps": 0,
    }
    trainer = Trainer(**{**defaults, **settings})
    trainer.fit(module, datamodule=datamodule)
    return trainer


def one_batch(module, dataset):
    datamodule = QADataModule(
        dataset, module.backbone.tokenizer, passages_per_batch=4, questions_per_passage=3
    )
    examples = datamodule._prepare("train", None)
    from genpoe.training.sampler import GroupedBatchSampler

    sampler = GroupedBatchSampler(examples.groups, examples.lengths, 4, 3, seed=0)
    return examples[next(iter(sampler))]


def test_the_loss_is_that_of_each_question_alone_under_its_passages_expert(dataset, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    module = make_module(backbone, embedding_scaling="none")
    torch.nn.init.normal_(module.hypernet.linear2.weight, std=0.3)
    batch = one_batch(module, dataset)
    nll_N = module(batch)
    passages = PassageTokens(batch["passage_input_ids"], batch["passage_attention_mask"])
    experts = module.hypernet(passages)
    layer = ExpertLayer(backbone, 1)
    for i, row in enumerate(batch["rows"]):
        length = int(batch["attention_mask"][i].sum())
        own = Experts(*(factor[row : row + 1] for factor in experts.factors))
        with layer.injected(own, torch.ones(1, 1)):
            alone = answer_nll(
                backbone,
                *(batch[k][i : i + 1, :length] for k in ("input_ids", "attention_mask", "labels")),
            )
        torch.testing.assert_close(alone[0], nll_N[i], rtol=1e-4, atol=1e-4)


def test_only_the_hypernetwork_learns_and_autograd_begins_at_the_expert(dataset, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    module = make_module(backbone)
    module.hypernet.scaler.fit(torch.randn(50, 32))
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"hypernet"}
    seen: dict[str, torch.Tensor] = {}
    backbone.layers[1].register_forward_pre_hook(lambda m, args: seen.update(below=args[0]))
    backbone.final_norm.register_forward_pre_hook(lambda m, args: seen.update(above=args[0]))
    module(one_batch(module, dataset)).mean().backward()
    assert not seen["below"].requires_grad
    assert seen["above"].requires_grad
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    assert module.hypernet.linear2.weight.grad.abs().max() > 0


def test_training_lowers_the_loss(dataset, tiny_tokenizer, tmp_path):
    module = make_module(make_backbone(tokenizer=tiny_tokenizer))
    batch = one_batch(module, dataset)
    with torch.no_grad():
        before = module(batch).mean()
    fit(module, dataset, tmp_path, max_epochs=12)
    with torch.no_grad():
        assert module(batch).mean() < before - 0.5


def test_cached_states_train_the_same_hypernetwork(dataset, tiny_tokenizer, tmp_path):
    plain = make_module(make_backbone(tokenizer=tiny_tokenizer))
    fit(plain, dataset, tmp_path)
    cached = make_module(make_backbone(tokenizer=tiny_tokenizer), cache_dir=str(tmp_path / "cache"))
    fit(cached, dataset, tmp_path)
    for one, other in zip(plain.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_validation_metrics_and_schedule(dataset, tiny_tokenizer, tmp_path):
    module = make_module(make_backbone(tokenizer=tiny_tokenizer))
    trainer = fit(module, dataset, tmp_path, max_epochs=1)
    assert {"train/loss", "val/loss", "val/loss_shuffled"} <= set(trainer.callback_metrics)
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0] < 1e-2


def test_the_rate_warms_up_and_falls_along_a_cosine(tiny_backbone):
    module = make_module(tiny_backbone, lr=1e-2, lr_min=1e-4, warmup_steps=10, common_lr_scale=50.0)
    module._trainer = SimpleNamespace(precision="32-true", estimated_stepping_batches=100)
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    seen = []
    for _ in range(101):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    own = [rate for rate, _ in seen]
    assert own[0] == pytest.approx(1e-3, rel=1e-3)  # the first of ten steps of warm-up
    assert own[50] == pytest.approx((1e-2 + 1e-4) / 2)
    assert own[25] == pytest.approx(1e-4 + (1e-2 - 1e-4) * (2 + 2**0.5) / 4)
    assert own[100] == pytest.approx(1e-4)
    assert [common for _, common in seen] == pytest.approx([50 * rate for rate in own])


def test_a_rate_of_zero_is_an_error(tiny_backbone):
    with pytest.raises(ValueError, match="lr > 0, got lr_min=0, lr=0"):
        make_module(tiny_backbone, lr=0, lr_min=0)


def test_weights_that_are_not_finite_are_not_saved(tiny_backbone):
    module = make_module(tiny_backbone)
    module.hypernet.linear2.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"linear2\.bias are no longer finite"):
        module.on_save_checkpoint({})


def test_another_backbone_is_refused_when_resuming(tiny_tokenizer):
    one = make_module(make_backbone(tokenizer=tiny_tokenizer))
    other = make_module(make_backbone(seed=3, tokenizer=tiny_tokenizer))
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(one.hparams)}
    one.on_save_checkpoint(checkpoint)
    one.on_load_checkpoint(checkpoint)
    with pytest.raises(BackboneMismatchError, match="choose that model"):
        other.on_load_checkpoint(checkpoint)


def test_another_hypernetwork_is_refused_and_another_rate_is_said(tiny_backbone):
    one = make_module(tiny_backbone)
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(one.hparams)}
    one.on_save_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="layer was 1, is 0"):
        make_module(tiny_backbone, layer=0).on_load_checkpoint(checkpoint)
    with pytest.warns(UserWarning, match=r"other settings: lr was 0\.01, is 0\.02"):
        make_module(tiny_backbone, lr=2e-2).on_load_checkpoint(checkpoint)


def test_another_prompt_is_said_when_resuming(tiny_backbone, monkeypatch):
    module = make_module(tiny_backbone)
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    old = {key: value for key, value in checkpoint.items() if key != "prompt"}
    for each in (checkpoint, old):  # version 0.1 did not save the prompt
        module.on_load_checkpoint(each)
    monkeypatch.setattr("qa.prompts.INSTRUCTION", "Answer in Latin.")
    for each in (checkpoint, old):
        with pytest.warns(UserWarning, match=r"other settings: prompt was .*, is .*Latin"):
            module.on_load_checkpoint(each)


def test_learning_rates_out_of_order_are_an_error(tiny_backbone):
    with pytest.raises(ValueError, match=r"lr > 0, got lr_min=1\.0, lr=0\.1"):
        make_module(tiny_backbone, lr=0.1, lr_min=1.0)


def test_wrong_passages_change_the_loss_of_their_questions_alone(dataset, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    modules = make_module(backbone), make_module(backbone, wrong_passages=0.5)
    for module in modules:
        torch.nn.init.normal_(module.hypernet.linear2.weight, std=0.3)
    modules[1].hypernet.load_state_dict(modules[0].hypernet.state_dict())
    batch = one_batch(modules[0], dataset)
    own, mixed = (module(batch, torch.Generator().manual_seed(0)) for module in modules)
    rows = batch["rows"]
    *_, wrong = with_others(rows, candidates(batch), 0, after_noise(modules[0], batch), wrong=0.5)
    assert 0 < wrong.sum() < len(rows)
    torch.testing.assert_close(mixed[~wrong], own[~wrong], rtol=1e-4, atol=1e-4)
    assert (mixed - own)[wrong].abs().max() > 1e-3
    torch.testing.assert_close(modules[1](batch), modules[0](batch))  # not in validation


def test_two_gold_passages_are_injected_together(dataset, tiny_tokenizer):
    """The loss of each question is that under both its experts, each with half the weight."""
    train = dataset.split("train")
    ids = [question.passage_ids[0] for question in train]
    questions = [
        replace(question, passage_ids=(own, other))
        for question, own, other in zip(train, ids, reversed(ids), strict=True)
        if own != other
    ]
    both = replace(dataset, splits={"train": questions})
    module = make_module(make_backbone(tokenizer=tiny_tokenizer), embedding_scaling="none")
    torch.nn.init.normal_(module.hypernet.linear2.weight, std=1.0)
    datamodule = QADataModule(
        both, tiny_tokenizer, passages_per_batch=4, val_split=None, gold_passages=2
    )
    examples = datamodule._prepare("train", None)
    batch = examples[datamodule._sampler("train", True).batches(0)[0]]
    nll_N = module(batch)
    experts = module.hypernet(
        PassageTokens(batch["passage_input_ids"], batch["passage_attention_mask"])
    )
    for i, row in enumerate(batch["rows"].tolist()):
        pair = torch.tensor([[row, int(batch["also"][row, 0])]])
        one = {k: batch[k][i : i + 1] for k in ("input_ids", "attention_mask", "labels")}
        with module.expert_layer.injected(experts.arranged(pair), torch.full((1, 2), 0.5)):
            alone = answer_nll(module.backbone, *one.values())
        torch.testing.assert_close(alone[0], nll_N[i], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(nll_N, module({k: v for k, v in batch.items() if k != "also"}))


def after_noise(module, batch):
    """The generator of the noise as it is after the experts have been made."""
    noise = torch.Generator().manual_seed(0)
    module.hypernet(module._passages(batch), noise)
    return noise


def test_other_passages_are_trained_with_and_not_validated_with(dataset, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    one, several = make_module(backbone), make_module(backbone, other_passages=2)
    for module in (one, several):
        torch.nn.init.normal_(module.hypernet.linear2.weight, std=0.3)
    several.hypernet.load_state_dict(one.hypernet.state_dict())
    batch = one_batch(one, dataset)

    def noise():
        return torch.Generator().manual_seed(0)

    assert torch.equal(one(batch), several(batch))
    assert not torch.allclose(one(batch, noise()), several(batch, noise()))


def test_a_start_that_is_not_finite_is_not_put_down_to_the_learning_rate(
    dataset, tiny_tokenizer, tmp_path, monkeypatch
):
    module = make_module(make_backbone(tokenizer=tiny_tokenizer))
    start = module.hypernet.start

    def broken(sample):
        start(sample)
        module.hypernet.linear1.weight.data[0, 0] = float("nan")

    monkeypatch.setattr(module.hypernet, "start", broken)
    with pytest.raises(ValueError, match=r"linear1\.weight of the hypernetwork are not finite bef"):
        fit(module, dataset, tmp_path)


def test_three_training_passages_with_one_text_are_said_to_be_alike(tiny_tokenizer, tmp_path):
    passages = {f"p{i}": Passage(f"p{i}", "", "The sea is deep.") for i in range(3)}
    questions = [Question(f"q{i}", f"What is {i}?", (f"deep {i}",), (f"p{i}",)) for i in range(3)]
    alike = QADataset("alike", passages, {"train": questions, "dev": []})
    module = make_module(make_backbone(tokenizer=tiny_tokenizer))
    with pytest.raises(DataError, match="train: expected passages that differ, got 3 with the"):
        fit(module, alike, tmp_path)
