"""Experts as tensors: settings, initial values, sizes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmoe.experts.expert import (
    ExpertError,
    ExpertSpec,
    check_expert,
    delta_norm,
    expert_at,
    initial_expert,
    stack_experts,
)

SIZES = {"gate": (32, 48), "up": (32, 48), "down": (48, 32)}


def random_expert(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = spec.shapes(SIZES)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_papers_expert_has_122880_parameters():
    sizes = {"gate": (2048, 8192), "up": (2048, 8192), "down": (8192, 2048)}
    assert sum(math.prod(shape) for shape in ExpertSpec().shapes(sizes).values()) == 122_880
    assert ExpertSpec().scaling == 4


def test_equal_settings_are_equal():
    assert ExpertSpec(targets=["down", "gate"]) == ExpertSpec(targets=("gate", "down"))
    assert ExpertSpec(2, 8, ["up"]).as_dict() == {"rank": 2, "alpha": 8.0, "targets": ["up"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"rank must be positive, got 0; set rank"),
        ({"alpha": -1}, r"alpha must be positive, got -1; set alpha"),
        ({"alpha": math.nan}, "alpha must be positive, got nan"),
        ({"targets": []}, r"targets must be some of gate, up, down, each once, got \[\]"),
        ({"targets": ["up", "up"]}, "each once"),
        ({"targets": ["head"]}, r"got \['head'\]; set targets"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ExpertError, match=message):
        ExpertSpec(**settings)


def test_an_ffn_without_a_gate_has_no_expert_for_it():
    with pytest.raises(ExpertError, match="no 'gate' projection, it has up, down; set targets"):
        ExpertSpec().shapes({"up": (4, 8), "down": (8, 4)})


def test_initial_experts_are_pefts():
    """A has the bounds and the spread of PEFT's kaiming_uniform, and B is zero."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    expert = initial_expert(ExpertSpec(rank=64), SIZES, "p")
    layer = Linear(torch.nn.Linear(48, 32), "default", LoraConfig(), r=64, lora_alpha=16)
    theirs = next(layer.lora_A["default"].parameters())
    ours = expert["down.lora_A"]
    assert ours.shape == theirs.shape
    assert ours.abs().max() <= 1 / math.sqrt(48)
    assert ours.std() == pytest.approx(theirs.std().item(), rel=0.05)
    assert all(not tensor.any() for name, tensor in expert.items() if name.endswith("B"))


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 3))
def test_initial_experts_depend_on_passage_and_seed_alone(one, other, seed):
    spec = ExpertSpec(rank=1, targets=["up"])
    torch.rand(1)  # the global generator makes no difference
    first, again = (initial_expert(spec, SIZES, one, seed)["up.lora_A"] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, initial_expert(spec, SIZES, other, seed)["up.lora_A"]) == (
        one == other
    )
    assert not torch.equal(first, initial_expert(spec, SIZES, one, seed + 1)["up.lora_A"])


def test_stacking_and_taking_out_are_opposites():
    spec = ExpertSpec(targets=["gate", "down"])
    each = [random_expert(spec, seed) for seed in range(3)]
    batch = stack_experts(each)
    assert batch["gate.lora_A"].shape == (3, 4, 32)
    for index, expert in enumerate(each):
        assert all(torch.equal(expert_at(batch, index)[name], expert[name]) for name in expert)


def test_the_norm_is_that_of_the_whole_matrices():
    spec = ExpertSpec(rank=3)
    each = [random_expert(spec, seed) for seed in range(2)]
    batch = delta_norm(stack_experts(each), spec.scaling)
    for norm, expert in zip(batch, each, strict=True):
        deltas = [expert[f"{t}.lora_B"] @ expert[f"{t}.lora_A"] * spec.scaling for t in SIZES]
        expected = torch.cat([delta.flatten() for delta in deltas]).norm()
        torch.testing.assert_close(norm, expected)
        torch.testing.assert_close(delta_norm(expert, spec.scaling), expected)


def test_experts_are_checked():
    spec = ExpertSpec()
    check_expert(random_expert(spec), spec, SIZES)
    check_expert(stack_experts([random_expert(spec)] * 2), spec, SIZES)
    with pytest.raises(ExpertError, match=r"expected the tensors gate\.lora_A, .*, got none"):
        check_expert({}, spec, SIZES)
    with pytest.raises(ExpertError, match=r"gate.lora_A: expected the shape \[4, 32\], got \[3, 3"):
        check_expert({**random_expert(spec), "gate.lora_A": torch.zeros(3, 32)}, spec, SIZES)
    bad = random_expert(spec)
    bad["up.lora_B"][0, 0] = math.nan
    with pytest.raises(ExpertError, match=r"up.lora_B holds values that are not finite"):
        check_expert(bad, spec, SIZES)
