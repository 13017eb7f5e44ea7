"""Training many experts at a time equals training each alone with PEFT in a plain loop."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from benchmarks.experts import PeftLoop
from dmoe.experts.expert import ExpertSpec, expert_at, initial_expert
from dmoe.experts.recipe import Recipe, RecipeError
from dmoe.training import grouped
from dmoe.training.adamw import GroupedAdamW
from dmoe.training.grouped import GroupedTrainer, Limits, head_gradient
from dmoe.training.instances import Encoded
from dmoe.training.label_states import label_states
from dmoe.training.warmup import merge_expert
from tests.helpers.tiny import make_backbone

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2"]
IDS = ["p", "another passage", "../p", "", "ü\n"]


def lessons(seed=0):
    """Make one to five instances of each passage, with a common beginning."""
    draw = random.Random(seed)

    def instance():
        ids = (5, 6, 7, *(draw.randrange(3, 300) for _ in range(draw.randrange(2, 12))))
        return Encoded(ids, draw.choice([1, 3]))

    return [[instance() for _ in range(count)] for count in (3, 1, 5, 2, 4)]


def copy_of(backbone):
    return Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, backbone.name)


def difference(ours, theirs):
    """Return the largest relative difference between two experts' tensors, by norm."""
    return max(((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_grouped_training_equals_peft_alone(family, batch_size, tiny_tokenizer):
    sliding = {"sliding_window": 6} if family in ("mistral", "gemma2", "gemma3_text") else {}
    backbone = make_backbone(family, tokenizer=tiny_tokenizer, **sliding)
    spec, recipe = ExpertSpec(), Recipe(lr=1e-2, epochs=3, batch_size=batch_size)
    trained = GroupedTrainer(FinalFFN(backbone), spec, recipe).train(IDS, lessons())
    loop = PeftLoop(copy_of(backbone), spec, recipe)
    for index, (id, instances) in enumerate(zip(IDS, lessons(), strict=True)):
        alone = loop.train(id, instances)
        initial = initial_expert(spec, loop._sizes, id)
        assert difference(initial, alone) > 0.1  # training has changed it
        assert difference(expert_at(trained.experts, index), alone) < 1e-4


def test_experts_in_a_fused_map_are_those_of_the_same_model_with_two_maps(tiny_tokenizer):
    fused = make_backbone("phi3", tokenizer=tiny_tokenizer)
    apart = make_backbone("llama", tokenizer=tiny_tokenizer)
    weights = fused.model.state_dict()
    for name in list(weights):
        if "qkv_proj" in name:
            parts = weights.pop(name).split([32, 16, 16])
            split = zip(("q_proj", "k_proj", "v_proj"), parts, strict=True)
            weights |= {name.replace("qkv_proj", part): weight for part, weight in split}
        if "gate_up_proj" in name:
            split = zip(("gate_proj", "up_proj"), weights.pop(name).chunk(2), strict=True)
            weights |= {name.replace("gate_up_proj", part): weight for part, weight in split}
    apart.model.load_state_dict(weights)
    recipe = Recipe(lr=1e-2, epochs=3)
    ours, theirs = (
        GroupedTrainer(FinalFFN(each), ExpertSpec(), recipe).train(IDS, lessons()).experts
        for each in (fused, apart)
    )
    assert difference(ours, theirs) < 1e-3


@pytest.mark.parametrize("targets", [["gate"], ["up"], ["down"], ["down", "up"]])
def test_any_subset_of_the_projections(targets, tiny_backbone):
    spec, recipe = ExpertSpec(2, 3.0, targets), Recipe(lr=1e-2, epochs=2)
    trained = GroupedTrainer(FinalFFN(tiny_backbone), spec, recipe).train(IDS, lessons())
    alone = PeftLoop(copy_of(tiny_backbone), spec, recipe).train(IDS[2], lessons()[2])
    assert set(trained.experts) == {f"{t}.lora_{m}" for t in targets for m in "AB"}
    assert difference(expert_at(trained.experts, 2), alone) < 1e-4


@settings(deadline=None, max_examples=10)
@given(
    order=st.permutations(range(5)),
    cut=st.integers(1, 4),
    limits=st.builds(
        Limits,
        trunk_tokens=st.integers(16, 60),
        head_tokens=st.integers(1, 20),
    ),
)
def test_order_groups_and_limits_do_not_matter(order, cut, limits):
    backbone = make_backbone()
    backbone.model.double()  # so that rounding makes no difference
    trainer = GroupedTrainer(FinalFFN(backbone), ExpertSpec(), Recipe(lr=1e-2, epochs=2), limits)
    whole = trainer.train(IDS, lessons())
    for part in (order[:cut], order[cut:]):
        trained = trainer.train([IDS[i] for i in part], [lessons()[i] for i in part])
        for place, index in enumerate(part):
            assert difference(
                expert_at(trained.experts, place), expert_at(whole.experts, index)
            ) < (1e-5)
            for name in ("first_loss", "last_loss", "norm"):
                torch.testing.assert_close(
                    getattr(trained, name)[place], getattr(whole, name)[index], rtol=1e-4, atol=0
                )


def test_one_that_diverges_spares_the_others(tiny_backbone):
    draw = random.Random(0)
    instances = [
        [Encoded((5, 6, *(draw.randrange(3, 300) for _ in range(draw.randrange(2, 9)))), 1)] * count
        for count in (12, 2, 3, 3, 3)
    ]
    trainer = GroupedTrainer(FinalFFN(tiny_backbone), ExpertSpec(), Recipe(lr=500.0, epochs=2))
    together = trainer.train(IDS, instances)
    finite = []
    for index, (id, some) in enumerate(zip(IDS, instances, strict=True)):
        ours = expert_at(together.experts, index)
        alone = expert_at(trainer.train([id], [some]).experts, 0)
        finite.append(all(bool(tensor.isfinite().all()) for tensor in alone.values()))
        assert all(torch.isfinite(ours[name]).equal(alone[name].isfinite()) for name in alone)
    assert finite == [False, True, True, True, True]


def test_the_losses_are_those_of_the_epochs(tiny_backbone):
    """With a learning rate of 0, every epoch's loss is that of the untouched model."""
    ffn, instances = FinalFFN(tiny_backbone), lessons()
    recipe = Recipe(lr=0.0, epochs=2, weight_decay=0.0)
    trained = GroupedTrainer(ffn, ExpertSpec(), recipe).train(IDS, instances)
    for index, each in enumerate(instances):
        losses = []
        for encoded in each:
            ids = torch.tensor([encoded.ids])
            logits = tiny_backbone.model(ids).logits[0, encoded.first_label - 1 : -1]
            losses.append(functional.cross_entropy(logits, ids[0, encoded.first_label :]))
        expected = torch.stack(losses).mean()
        torch.testing.assert_close(trained.first_loss[index], expected)
        torch.testing.assert_close(trained.last_loss[index], expected)
    assert not trained.norm.any()


def test_what_experts_know_is_the_plain_models_loss(tiny_backbone):
    """The plain model has each expert merged into its weights."""
    spec, recipe = ExpertSpec(), Recipe(lr=1e-2, epochs=3)
    trainer = GroupedTrainer(FinalFFN(tiny_backbone), spec, recipe, Limits(head_tokens=7))
    trained = trainer.train(IDS, lessons())
    found = trainer.losses(trained.experts, lessons(1))
    for index, instances in enumerate(lessons(1)):
        merged = copy_of(tiny_backbone)
        merge_expert(FinalFFN(merged), expert_at(trained.experts, index), spec)
        nll = []
        for encoded in instances:
            ids = torch.tensor([encoded.ids])
            logits = merged.model(ids).logits[0, encoded.first_label - 1 : -1]
            labels = ids[0, encoded.first_label :]
            nll.append(functional.cross_entropy(logits, labels, reduction="none"))
        torch.testing.assert_close(found[index], torch.cat(nll).mean())


def test_the_backbone_is_left_as_it_is(tiny_backbone):
    ids = torch.tensor([[5, 6, 7]])
    before = tiny_backbone.model(ids).logits
    weights = {name: t.clone() for name, t in tiny_backbone.model.state_dict().items()}
    recipe = Recipe(lr=1e-2)
    GroupedTrainer(FinalFFN(tiny_backbone), ExpertSpec(), recipe).train(IDS, lessons())
    assert torch.equal(tiny_backbone.model(ids).logits, before)
    after = tiny_backbone.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())
    assert not any(p.requires_grad for p in tiny_backbone.model.parameters())


def test_epochs_reuse_the_states(tiny_backbone, monkeypatch):
    computed = []

    def counted(*args):
        computed.append(1)
        return label_states(*args)

    monkeypatch.setattr(grouped, "label_states", counted)
    recipe = Recipe(epochs=7)
    GroupedTrainer(FinalFFN(tiny_backbone), ExpertSpec(), recipe).train(IDS, lessons())
    assert computed == [1]


def test_bfloat16_trains_experts_in_float32(tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    exact = GroupedTrainer(FinalFFN(backbone), ExpertSpec(), Recipe(lr=1e-2, epochs=3))
    expected = exact.train(IDS, lessons())
    backbone.model.bfloat16()
    trainer = GroupedTrainer(FinalFFN(backbone), ExpertSpec(), Recipe(lr=1e-2, epochs=3))
    trained = trainer.train(IDS, lessons())
    assert {tensor.dtype for tensor in trained.experts.values()} == {torch.float32}
    torch.testing.assert_close(trained.last_loss, expected.last_loss, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_heads_gradient_is_autograds(softcap, tiny_tokenizer):
    backbone = make_backbone(
        "gemma2" if softcap else "llama",
        tokenizer=tiny_tokenizer,
        **({"final_logit_softcapping": softcap} if softcap else {}),
    )
    hidden = torch.randn(11, 32, requires_grad=True)
    targets, weights = torch.randint(0, 300, (11,)), torch.rand(11)
    nll, slope = head_gradient(backbone, hidden, targets, weights, tokens=4)
    expected = functional.cross_entropy(backbone.logits(hidden), targets, reduction="none")
    torch.testing.assert_close(nll, expected.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(expected @ weights, hidden)[0])


def test_adamw_is_torchs_for_each_expert():
    """Experts that stop early keep their own state and step count."""
    recipe = Recipe(lr=0.1, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)
    start = {"a": torch.randn(3, 4, 5), "b": torch.randn(3, 2)}
    ours = {name: tensor.clone() for name, tensor in start.items()}
    optimizer = GroupedAdamW(ours, recipe)
    alone = [{name: t[i].clone().requires_grad_() for name, t in start.items()} for i in range(3)]
    theirs = [
        torch.optim.AdamW(expert.values(), lr=0.1, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)
        for expert in alone
    ]
    for active in (3, 1, 2, 3, 1):
        gradients = {name: torch.randn_like(t[:active]) for name, t in start.items()}
        optimizer.step(gradients)
        for index in range(active):
            for name, parameter in alone[index].items():
                parameter.grad = gradients[name][index].clone()
            theirs[index].step()
    for index, expert in enumerate(alone):
        for name, parameter in expert.items():
            torch.testing.assert_close(ours[name][index], parameter.detach())


def test_a_passage_without_instances_is_an_error(tiny_backbone):
    trainer = GroupedTrainer(FinalFFN(tiny_backbone), ExpertSpec(), Recipe())
    with pytest.raises(ValueError, match="passage 'q' has no instances to train on; leave it out"):
        trainer.train(["p", "q"], [lessons()[0], []])


@pytest.mark.parametrize("name", ["group_size", "group_tokens", "trunk_tokens", "head_tokens"])
def test_limits_are_checked(name):
    with pytest.raises(ValueError, match=rf"{name} must be positive, got 0; set {name}"):
        Limits(**{name: 0})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, r"epochs must be positive, got 0; set epochs"),
        ({"batch_size": 0}, r"batch_size must be positive, got 0; set batch_size"),
        ({"max_tokens": 1}, "max_tokens must be at least 2, got 1"),
        ({"lr": -1.0}, r"lr must be finite and not negative, got -1\.0; set lr"),
        ({"eps": float("nan")}, "eps must be finite"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \[0\.9, 1\.0\]"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"loss": "some"}, "loss must be one of answer, all, got 'some'"),
    ],
)
def test_recipes_are_checked(setting, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**setting)


def test_recipes_are_plain_values():
    assert Recipe(betas=[0.9, 0.99]) == Recipe(betas=(0.9, 0.99))
    assert Recipe().as_dict()["betas"] == [0.9, 0.999]
