"""Groups hold each passage once, keep the limits, and leave out what is in the bank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dmoe.bank import Bank, BankSpec, ExpertLayout
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import Limits, TrainedGroup
from dmoe.training.groups import Group, Groups
from dmoe.training.instances import Encoded
from dmoe.training.lessons import InstancesError, Lesson
from dmoe.training.settings import typed_settings
from dmoe.training.tally import Tally
from retrieval.passage import Passage
from tests.helpers.tiny import make_tokenizer

TOKENIZER = make_tokenizer()
SIZES = {"up": (4, 6), "down": (6, 4)}
SPEC = ExpertSpec(2, 4, ["up", "down"])


def lesson(index, pairs=2):
    answer = "Lisbon by the sea " * (index % 5 + 1)
    return Lesson(
        Passage(f"p{index}", "", "text"),
        tuple((f"Question {number}?", answer) for number in range(pairs)),
    )


def bank_at(path):
    layout = ExpertLayout(SPEC.shapes(SIZES))
    return Bank.create(path, BankSpec("tiny", "0" * 64, layout, SPEC.alpha), exist_ok=True)


def experts(count):
    return {name: torch.randn(count, *shape) for name, shape in SPEC.shapes(SIZES).items()}


def groups(bank, lessons, limits=None, **worker):
    return Groups(
        lambda: iter(lessons), bank, TOKENIZER, ["qa"], Recipe(), limits or Limits(), **worker
    )


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return bank_at(tmp_path_factory.mktemp("bank"))


@settings(deadline=None, max_examples=30)
@given(
    pairs=st.lists(st.integers(0, 4), max_size=40),
    size=st.integers(1, 7),
    tokens=st.integers(1, 200),
    workers=st.integers(1, 3),
)
def test_every_lesson_is_in_one_group_of_one_worker(bank, pairs, size, tokens, workers):
    lessons = [lesson(index, count) for index, count in enumerate(pairs)]
    limits = Limits(group_size=size, group_tokens=tokens)
    seen, without = [], []
    for worker in range(workers):
        mine = groups(bank, lessons, limits, worker=worker, workers=workers)
        for group in mine:
            labels = [sum(len(e.ids) - e.first_label for e in each) for each in group.instances]
            assert 1 <= len(group.passages) == len(group.instances) <= size
            assert len(labels) == 1 or sum(labels) <= tokens
            assert all(group.instances)
            seen += [passage.id for passage in group.passages]
        without += mine.without
    assert sorted(without) == sorted(f"p{i}" for i, count in enumerate(pairs) if not count)
    assert sorted(seen + without) == sorted(each.passage.id for each in lessons)


def test_what_is_in_the_bank_is_left_out_unless_its_text_has_changed(tmp_path):
    bank = bank_at(tmp_path)
    lessons = [lesson(index) for index in range(6)]
    changed = Passage("p1", "", "another text")
    bank.add([lessons[0].passage, changed, lessons[2].passage], experts(3))
    mine = groups(bank, lessons)
    (group,) = mine
    assert {passage.id for passage in group.passages} == {"p1", "p3", "p4", "p5"}
    assert mine.skipped == 2
    assert len(list(mine)) == 1  # the counts start again
    assert mine.skipped == 2


def test_formats_are_checked_at_once(bank):
    with pytest.raises(InstancesError, match="formats must be some of"):
        Groups(list, bank, TOKENIZER, ["cot"], Recipe(), Limits())


def trained(ids, batch):
    count = len(ids)
    return TrainedGroup(ids, batch, torch.full((count,), 2.0), torch.ones(count), torch.ones(count))


def group_of(*indices):
    lessons = [lesson(index) for index in indices]
    each = [[Encoded((1, 2), 1)] for _ in lessons]
    return Group([one.passage for one in lessons], each)


def test_experts_that_diverged_are_named_and_left_out(tmp_path, caplog):
    bank, tally, group = bank_at(tmp_path), Tally(), group_of(0, 1, 2)
    batch = experts(3)
    batch["up.lora_B"][1, 0, 0] = torch.nan
    tally.store(bank, group, trained(["p0", "p1", "p2"], batch))
    assert sorted(bank) == ["p0", "p2"]
    assert torch.equal(bank.get(["p2"])["up.lora_A"][0], batch["up.lora_A"][2])
    assert (tally.experts, tally.failed, tally.first_loss) == (2, ["p1"], 4.0)
    assert (
        "the expert of passage 'p1' diverged and is left out; lower the recipe's lr" in caplog.text
    )
    tally.store(bank, group_of(3), trained(["p3"], {n: t[1:2] for n, t in batch.items()}))
    assert (tally.experts, tally.failed) == (2, ["p1", "p3"])


def test_an_expert_of_a_changed_text_is_replaced(tmp_path):
    bank, tally = bank_at(tmp_path), Tally()
    for batch in (experts(1), experts(1)):
        tally.store(bank, group_of(0), trained(["p0"], batch))
    assert torch.equal(bank.get(["p0"])["up.lora_A"], batch["up.lora_A"])


def test_sums_become_means():
    tally = Tally(experts=4, skipped=1, first_loss=8, last_loss=4, norm=2)
    assert tally + Tally() == tally
    other = Tally(experts=1, failed=["a"], without=["b"], norm=1)
    both = Tally(5, ["a", "a"], 1, ["b", "b"], 8, 4, 4)
    assert sum([other, tally, replace(other, experts=0)], Tally()) == both
    metrics = tally.metrics(seconds=10)
    assert metrics["train/first_loss"] == 2
    assert metrics["train/last_loss"] == 1
    assert metrics["expert_norm"] == 0.5
    assert metrics["seconds_per_expert"] == 2.5
    assert "train/last_loss" not in Tally(failed=["a"]).metrics(1)  # no expert, so no mean


def test_a_longest_instance_must_fit_before_anything_is_built():
    def config(max_tokens):
        settings = {"recipe": {"max_tokens": max_tokens}, "limits": {"trunk_tokens": 100}}
        return OmegaConf.create({"expert": {}, **settings})

    typed_settings(config(101))
    with pytest.raises(
        ValueError, match=r"must be 101 or more.*, got 100; set limits\.trunk_tokens"
    ):
        typed_settings(config(102))
