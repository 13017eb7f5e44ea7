"""Experts that pay for what they change at other passages' questions and answers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.split import Trunk
from dmoe.experts.expert import ExpertSpec, expert_at, initial_expert
from dmoe.experts.recipe import Recipe, RecipeError
from dmoe.training.grouped import GroupedTrainer
from dmoe.training.groups import instances_of_others
from dmoe.training.lessons import Lesson
from dmoe.training.silence import POSITIONS, Others, change
from retrieval.passage import Passage
from tests.dmoe.training.test_grouped import IDS, difference, lessons
from tests.helpers.tiny import make_backbone

SPEC = ExpertSpec()


def trainer(backbone, recipe, others):
    return GroupedTrainer(FinalFFN(backbone), SPEC, recipe, others=others)


def others():
    return dict(zip(IDS, lessons(), strict=True))


def hidden(final, expert, residual):
    """Final hidden states under one expert, by the plain formula."""

    def term(name, x):
        down, up = expert[f"{name}.lora_A"], expert[f"{name}.lora_B"]
        return functional.linear(functional.linear(x, down), up) * SPEC.scaling

    with final.adding(term, SPEC.targets):
        return final.hidden(residual)


def test_silent_experts_equal_a_plain_loop(tiny_backbone):
    """One expert, its own AdamW, and the penalty written out."""
    backbone = copy.deepcopy(tiny_backbone)
    recipe = Recipe(lr=1e-2, epochs=2, silence=3.0)
    ours = trainer(backbone, recipe, others()).train(IDS, lessons()).experts
    final = FinalFFN(backbone)
    pool = Others.of(final, Trunk(final), others())
    index, own = 2, lessons()[2]
    steps = pool.draw([IDS[index]], len(own))
    expert = {
        name: tensor.requires_grad_()
        for name, tensor in initial_expert(SPEC, final.sizes, IDS[index]).items()
    }
    optimizer = torch.optim.AdamW(expert.values(), lr=1e-2, weight_decay=0.01)
    for _ in range(2):
        for encoded, step in zip(own, steps, strict=True):
            ids = torch.tensor([encoded.ids])
            residuals: list[torch.Tensor] = []
            handle = (final.pre or final.ffn).register_forward_pre_hook(
                lambda _, args, into=residuals: into.append(args[0].detach())
            )
            backbone.hidden_states(ids, torch.ones_like(ids))
            handle.remove()
            rows = residuals[0][0, encoded.first_label - 1 : -1]
            logits = backbone.logits(hidden(final, expert, rows))
            loss = functional.cross_entropy(logits, ids[0, encoded.first_label :])
            elsewhere = pool.residual_MD[step.rows_NS[0]]
            plain = final.hidden(elsewhere).detach()
            moved = hidden(final, expert, elsewhere) - plain
            penalty = (moved.norm(dim=-1) / plain.norm(dim=-1)).square().mean()
            optimizer.zero_grad()
            (loss + 3.0 * penalty).backward()
            optimizer.step()
    alone = {name: tensor.detach() for name, tensor in expert.items()}
    assert difference(expert_at(ours, index), alone) < 1e-3


def test_the_weight_makes_experts_silent_elsewhere_and_not_at_home(tiny_backbone):
    final = FinalFFN(tiny_backbone)
    pool = Others.of(final, Trunk(final), others())
    moved, losses = [], []
    for silence in (0.0, 1.0, 100.0):
        trained = trainer(
            tiny_backbone, Recipe(lr=1e-2, epochs=20, silence=silence), others()
        ).train(IDS, lessons())
        foreign = pool.residual_MD[pool.owner_M != 0]
        plain = pool.hidden_MD[pool.owner_M != 0]
        expert = expert_at(trained.experts, 0)
        moved.append(float(change(hidden(final, expert, foreign), plain).mean()))
        losses.append(float(trained.last_loss[0]))
    assert moved[0] > 2 * moved[1] > 4 * moved[2]
    assert losses[1] < trained.first_loss[0] - 0.5  # it still learns


def test_an_expert_depends_neither_on_its_group_nor_on_its_own_passage_in_the_pool():
    backbone = make_backbone()
    backbone.model.double()
    recipe = Recipe(lr=1e-2, epochs=2, silence=1.0)
    whole = trainer(backbone, recipe, others()).train(IDS, lessons())
    part = trainer(backbone, recipe, others()).train(IDS[3:4], lessons()[3:4])
    assert difference(expert_at(part.experts, 0), expert_at(whole.experts, 3)) < 1e-5
    pool = Others(
        IDS, torch.zeros(9, 2), torch.ones(9, 2), torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 4])
    )
    steps = pool.draw([IDS[0], "of no passage"], 3)
    assert [step.rows_NS.shape for step in steps] == [(2, POSITIONS)] * 3
    drawn = torch.cat([step.rows_NS for step in steps], 1)
    assert set(drawn[0].tolist()) == {3, 4, 5, 6, 7, 8}
    assert set(drawn[1].tolist()) == set(range(9))


def test_a_weight_of_zero_is_the_papers_training(tiny_backbone):
    plain = GroupedTrainer(FinalFFN(tiny_backbone), SPEC, Recipe(lr=1e-2)).train(IDS, lessons())
    with_pool = trainer(tiny_backbone, Recipe(lr=1e-2), others()).train(IDS, lessons())
    assert all(torch.equal(plain.experts[name], with_pool.experts[name]) for name in plain.experts)
    assert "silence" not in Recipe().as_dict()  # old banks go on
    assert Recipe(silence=2.0).as_dict()["silence"] == 2.0


def test_the_others_are_the_first_lessons(tiny_tokenizer):
    told = [Lesson(Passage(str(i), "", "text"), (("Who?", "Lisbon"),) * (i % 2)) for i in range(99)]
    found = instances_of_others(told, tiny_tokenizer, ["qa"], Recipe(silence=1.0))
    assert list(found) == [str(i) for i in range(64) if i % 2]
    assert not instances_of_others(told, tiny_tokenizer, ["qa"], Recipe())


def test_what_cannot_be_silent_is_refused(tiny_backbone):
    with pytest.raises(RecipeError, match=r"silence must be 0, got 1\.0: only the experts"):
        GroupedTrainer(FinalFFN(tiny_backbone), SPEC, Recipe(silence=1.0))
    alone = {"p": lessons()[0]}
    with pytest.raises(ValueError, match=r"got one passage alone; set recipe\.silence=0"):
        trainer(tiny_backbone, Recipe(silence=1.0), alone).train(["p"], lessons()[:1])
    with pytest.raises(RecipeError, match=r"silence must be finite and not negative, got -1\.0"):
        Recipe(silence=-1.0)
