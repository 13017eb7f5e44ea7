"""A teacher with the passage in its prompt: what it says, and what is learnt from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything

from backbone.final_ffn import FinalFFN
from backbone.split import Trunk
from backbone.tokens import encode_answer, encode_prompt
from genpoe.hypernet.hypernet import HypernetSettings
from genpoe.hypernet.mean import MeanSettings
from genpoe.hypernet.reader import ReaderSettings
from genpoe.training.datamodule import QADataModule
from genpoe.training.distillation import Teacher, top_k_divergence
from genpoe.training.module import GenPoEModule
from genpoe.training.others import choose_passages
from genpoe.training.settings import DistillationSettings, OptimSettings
from qa.data.bios import generate
from qa.prompts import build_prompt
from tests.helpers.tiny import make_backbone

HYPERNETS: dict[str, HypernetSettings] = {
    "mean": MeanSettings(
        layer=1,
        rank=2,
        hidden_width=8,
        embedding_scaling="standardize",
        initialization="random",
        noise=0.0,
    ),
    "reader": ReaderSettings(
        layer=1, read_layer=1, query_layers=[1], hidden_width=8, key_width=4, common_rank=2
    ),
}


@pytest.fixture(scope="module")
def dataset():
    return generate(seed=0, train_entities=12, dev_entities=6, distractor_entities=0)


def test_the_divergence_is_that_of_the_kept_tokens_and_of_all_others_as_one():
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 9).log_softmax(-1), 2 * torch.randn(5, 9)
    log_probs, tokens = teacher.topk(3)
    found = top_k_divergence(student, tokens, log_probs)
    for position in range(5):
        q = [math.exp(value) for value in student[position].tolist()]
        q = [value / sum(q) for value in q]
        p = teacher[position].exp().tolist()
        kept = sorted(range(9), key=lambda token: -p[token])[:3]
        rest = [sum(each[t] for t in range(9) if t not in kept) for each in (p, q)]
        expected = sum(p[t] * math.log(p[t] / q[t]) for t in kept)
        expected += rest[0] * math.log(rest[0] / rest[1])
        assert found[position].item() == pytest.approx(expected, rel=1e-4)
    log_probs, tokens = teacher.topk(9)
    whole = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher, log_target=True, reduction="none"
    ).sum(1)
    torch.testing.assert_close(
        top_k_divergence(student, tokens, log_probs), whole, rtol=1e-3, atol=1e-4
    )
    assert (found <= whole + 1e-5).all()
    same = top_k_divergence(teacher, *reversed(teacher.topk(3)))
    torch.testing.assert_close(same, torch.zeros(5), rtol=0, atol=1e-5)


def make_data(dataset, tokenizer, **settings: Any) -> QADataModule:
    sizes = {"passages_per_batch": 4, "questions_per_passage": 3, "max_prompt_tokens": 512}
    datamodule = QADataModule(dataset, tokenizer, **{**sizes, **settings})
    datamodule._prepare("train", None)
    return datamodule


def test_the_teacher_says_what_the_backbone_says_with_the_passage_in_its_prompt(
    dataset, tiny_tokenizer, tmp_path, monkeypatch
):
    backbone = make_backbone(tokenizer=tiny_tokenizer, max_position_embeddings=2048)
    final = FinalFFN(backbone)
    datamodule = make_data(dataset, tiny_tokenizer)
    taught = datamodule.taught()
    teacher = Teacher(final, taught, 5, tmp_path)
    for index in (0, 7, 20):
        question = dataset.split("train")[index]
        prompt = encode_prompt(
            tiny_tokenizer, build_prompt(question.question, dataset.gold(question))
        )
        answer = encode_answer(tiny_tokenizer, question.answers[0])
        assert taught[index] == (prompt, list(answer))
        with torch.no_grad():
            logits = backbone.model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
        expected = logits[len(prompt) - 1 :].log_softmax(-1).topk(5)
        said = teacher._said.rows(torch.tensor([index]))[0]
        torch.testing.assert_close(said[:, :5], expected.values, rtol=1e-3, atol=1e-4)
        assert said[:, 5:].long().tolist() == expected.indices.tolist()
    monkeypatch.setattr(Trunk, "residual", lambda *_: pytest.fail("computed again"))
    Teacher(final, taught, 5, tmp_path)
    (prompt, answer), *others = taught
    passage = [([*prompt[:9], 3, *prompt[10:]], answer), *others]  # another word of a passage
    for given in ((passage, 5), (taught[1:], 5), (taught, 6)):
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            Teacher(final, *given, tmp_path)


def test_another_prompt_is_another_key(dataset, tiny_tokenizer, tmp_path, monkeypatch):
    backbone = make_backbone(tokenizer=tiny_tokenizer, max_position_embeddings=2048)
    taught = make_data(dataset, tiny_tokenizer).taught()
    Teacher(FinalFFN(backbone), taught, 5, tmp_path)
    monkeypatch.setattr("qa.prompts.INSTRUCTION", "Reply.")
    changed = make_data(dataset, tiny_tokenizer).taught()
    assert changed != taught
    Teacher(FinalFFN(backbone), changed, 5, tmp_path)
    assert len(list(tmp_path.glob("*/states.bin"))) == 2


def trained(backbone, dataset, folder, name, **settings):
    seed_everything(0, verbose=False)
    hypernet = HYPERNETS[name].build(backbone)
    module = GenPoEModule(backbone, hypernet, OptimSettings(lr=1e-2), **settings)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=make_data(dataset, backbone.tokenizer))
    return module


@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize("name", list(HYPERNETS))
def test_a_weight_of_zero_changes_nothing_and_another_one_does(
    dataset, tiny_tokenizer, tmp_path, name, answers_only
):
    backbone = make_backbone(tokenizer=tiny_tokenizer, max_position_embeddings=2048)
    cache = {"cache_dir": str(tmp_path / "cache"), "answers_only": True} if answers_only else {}
    there = str(tmp_path / "teacher")
    plain, without, taught = (
        trained(backbone, dataset, tmp_path, name, **cache, **given)
        for given in (
            {},
            {"distillation": DistillationSettings(0.0), "teacher_dir": there},
            {"distillation": DistillationSettings(0.5, 4), "teacher_dir": there},
        )
    )
    assert len(list((tmp_path / "teacher").glob("*/states.bin"))) == 1
    for one, other in zip(plain.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)
    parameters = zip(plain.parameters(), taught.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in parameters)


def test_the_loss_has_the_divergence_of_questions_that_have_their_passage(
    dataset, tiny_tokenizer, tmp_path
):
    backbone = make_backbone(tokenizer=tiny_tokenizer, max_position_embeddings=2048)
    given = {"teacher_dir": str(tmp_path), "wrong_passages": 0.5}
    module = trained(
        backbone, dataset, tmp_path, "mean", distillation=DistillationSettings(0.5, 4), **given
    )
    datamodule = make_data(dataset, tiny_tokenizer)
    batch = datamodule._examples["train"][datamodule._sampler("train", True).batches(0)[0]]

    def losses():
        return module._losses(batch, torch.Generator().manual_seed(0))

    nll, extra = losses()
    noise = torch.Generator().manual_seed(0)
    module.hypernet(module._passages(batch), noise)
    *_, wrong = choose_passages(batch, noise, 0, 0.5)
    assert wrong is not None
    assert 0 < wrong.sum() < len(wrong)
    assert torch.equal(extra == 0, wrong)
    questions = dataset.split("train")
    with torch.no_grad():
        index, weight, _ = choose_passages(batch, noise_after(module, batch), 0, 0.5)
        experts = module.hypernet(module._passages(batch)).arranged(index)
        with module.expert_layer.injected(experts, weight):
            student = module.answer_logits(batch)
    for i, example in enumerate(batch["examples"].tolist()):
        if wrong[i]:
            continue
        question = questions[example]
        prompt = encode_prompt(
            tiny_tokenizer, build_prompt(question.question, dataset.gold(question))
        )
        answer = encode_answer(tiny_tokenizer, question.answers[0])
        with torch.no_grad():
            logits = backbone.model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
        log_probs, tokens = logits[len(prompt) - 1 :].log_softmax(-1).topk(4)
        apart = top_k_divergence(student.logits_AV[student.rows_A == i], tokens, log_probs).mean()
        assert extra[i].item() == pytest.approx(0.5 * apart.item(), rel=1e-3)
    torch.testing.assert_close(nll, student.nll())
    assert module(batch).shape == nll.shape  # no teacher in validation


def noise_after(module, batch):
    noise = torch.Generator().manual_seed(0)
    module.hypernet(module._passages(batch), noise)
    return noise


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must not be negative, got -1.0"),
        ({"weight": "much"}, "weight must be a number, got 'much'"),
        ({"top_k": 0}, "top_k must be positive, got 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationSettings(**settings)
