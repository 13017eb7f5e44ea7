"""A warm-up of 16-bit weights is not rounded away, and everything that follows uses it."""

from __future__ import annotations

import copy

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone, UnsupportedBackboneError
from backbone.tokens import encode_answer, encode_prompt
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import OracleRouter
from dmoe.decoding.steps import Routing
from dmoe.decoding.trigger import ConstantTrigger
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer
from dmoe.training.instances import Encoded
from dmoe.training.warmup import WarmLinear, merge_expert
from tests.helpers.dmoe_doubles import RANK, MemoryExperts
from tests.helpers.tiny import make_backbone

IDS = torch.randint(3, 300, (8, 12), generator=torch.Generator().manual_seed(1))
SPECS = [ExpertSpec(), ExpertSpec(2, 3.0, ["down"])]


def copy_of(backbone, dtype):
    model = copy.deepcopy(backbone.model).to(dtype)
    return Backbone(model, backbone.tokenizer, backbone.name)


@pytest.fixture(params=["llama", "gemma2"])
def half(request, tiny_tokenizer):
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    backbone = make_backbone(request.param, tokenizer=tiny_tokenizer, **sizes)
    return copy_of(backbone, torch.bfloat16)


def small_expert(backbone, spec, size=1e-4):
    """Make an adapter that changes most weights by half of their last bit or less."""
    generator = torch.Generator().manual_seed(2)
    expert = {
        name: torch.randn(shape, generator=generator)
        for name, shape in spec.shapes(FinalFFN(backbone).sizes).items()
    }
    return {n: t * (size / spec.scaling) if n.endswith("B") else t for n, t in expert.items()}


def warmed(backbone, expert, spec, dtype):
    copied = copy_of(backbone, dtype)
    merge_expert(FinalFFN(copied), expert, spec)
    return copied


def final_states(backbone, residual):
    return FinalFFN(backbone).hidden(residual.to(backbone.dtype)).float()


@torch.no_grad()
@pytest.mark.parametrize("spec", SPECS)
def test_a_warm_up_is_not_rounded_away_in_bfloat16(spec, half):
    expert = small_expert(half, spec)
    plain, exact = copy_of(half, torch.float32), warmed(half, expert, spec, torch.float32)
    ours, rounded = warmed(half, expert, spec, torch.bfloat16), copy_of(exact, torch.bfloat16)
    torch.testing.assert_close(
        ours.model(IDS).logits.float(), exact.model(IDS).logits, rtol=5e-2, atol=0.3
    )
    residual = torch.randn(500, 128).bfloat16()
    change = final_states(exact, residual) - final_states(plain, residual)

    def kept(backbone):
        """Return the share of the warm-up that has an effect; 1 is all of it."""
        mine = final_states(backbone, residual) - final_states(half, residual)
        return float((mine * change).sum() / change.square().sum())

    assert 0.9 < kept(ours) < 1.1
    assert kept(rounded) < 0.8


@torch.no_grad()
def test_a_warm_backbone_is_copied_and_known_like_any_other(half):
    ours = warmed(half, small_expert(half, SPECS[0], 1e-2), SPECS[0], torch.bfloat16)
    before, after = half.model(IDS).logits, ours.model(IDS).logits
    assert not torch.equal(before, after)
    again = Backbone(copy.deepcopy(ours.model), half.tokenizer, half.name)
    assert torch.equal(again.model(IDS).logits, after)
    assert again.fingerprint != half.fingerprint  # what is beside the weights counts, too
    assert FinalFFN(again).sizes == FinalFFN(half).sizes
    there = again.model.to("meta")  # a move takes everything along
    assert {t.device.type for t in (*there.parameters(), *there.buffers())} == {"meta"}


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_beside_the_weights_adds_up(bias):
    linear = torch.nn.Linear(64, 48, bias=bias, dtype=torch.bfloat16)
    warm, whole = WarmLinear(linear), copy.deepcopy(linear).float()
    x = torch.randn(3, 5, 64).bfloat16()
    torch.testing.assert_close(warm(x), linear(x), rtol=1e-2, atol=1e-2)
    for rank in (4, 2):
        a, b = torch.randn(rank, 64), torch.randn(48, rank) / 8
        warm.add(a, b)
        whole.weight += b @ a
    torch.testing.assert_close(warm(x).float(), whole(x.float()), rtol=1e-2, atol=2e-2)
    assert warm(x[:0]).shape == (0, 5, 48)


@pytest.mark.parametrize("size", [0.0, 1.0, 10.0])
def test_what_is_small_beside_a_bias_survives(size):
    linear = torch.nn.Linear(64, 512, dtype=torch.bfloat16)
    torch.nn.init.normal_(linear.bias, std=size)
    warm, x = WarmLinear(linear), torch.randn(512, 64).bfloat16()
    a, b = torch.randn(2, 64) / 8, torch.randn(512, 2) * 1e-3
    warm.add(a, b)
    change = x.float() @ a.mT @ b.mT
    mine = (warm(x) - linear(x)).float().detach()
    assert 0.8 < float((mine * change).sum() / change.square().sum()) < 1.2


def test_experts_on_a_warm_backbone_know_while_decoding_what_they_were_trained_to(half):
    warm = warmed(half, small_expert(half, SPECS[0], 0.1), SPECS[0], torch.bfloat16)
    source = MemoryExperts(warm)  # these experts change the likelihoods much
    ids, prompts, answers = ["p0", "p1"], ["b c\nAnswer:", "a\nAnswer:"], ["Lisbon", "by the sea"]
    routing = Routing(source, OracleRouter(source), ConstantTrigger(True))
    rows = [DecoderInput(p, given=(id,)) for p, id in zip(prompts, ids, strict=True)]
    scored = DMoEDecoder(warm, routing).start(rows, 1).score(answers)
    instances = []
    for prompt, answer in zip(prompts, answers, strict=True):
        beginning = encode_prompt(warm.tokenizer, prompt)
        end = encode_answer(warm.tokenizer, answer)
        instances.append([Encoded((*beginning, *end), len(beginning))])
    spec = ExpertSpec(RANK, RANK * source.scaling)
    trainer = GroupedTrainer(FinalFFN(warm), spec, Recipe(lr=1e-2))
    losses = trainer.losses(source.get(ids), instances)
    torch.testing.assert_close(losses, torch.tensor(scored), rtol=2e-2, atol=2e-2)
    cold = DMoEDecoder(half, routing).start(rows, 1).score(answers)
    assert (losses - torch.tensor(cold)).abs().min() > 0.1
    trained = trainer.train(ids, instances)
    assert (trainer.losses(trained.experts, instances) < trained.first_loss).all()


@torch.no_grad()
@pytest.mark.parametrize("targets", [("gate", "up", "down"), ("up",)])
def test_a_warm_up_of_a_fused_map_is_kept_beside_its_weights(targets, tiny_tokenizer):
    phi3 = make_backbone("phi3", tokenizer=tiny_tokenizer)
    spec = ExpertSpec(targets=targets)
    expert = small_expert(phi3, spec, 0.1)
    exact = warmed(phi3, expert, spec, torch.float32)
    ours = warmed(phi3, expert, spec, torch.bfloat16)
    assert FinalFFN(ours).sizes == FinalFFN(phi3).sizes
    torch.testing.assert_close(
        ours.model(IDS).logits.float(), exact.model(IDS).logits, rtol=5e-2, atol=0.3
    )


def test_a_transposed_map_of_16_bits_takes_no_warm_up(tiny_tokenizer):
    gpt2 = make_backbone("gpt2", tokenizer=tiny_tokenizer)
    spec = ExpertSpec(targets=("up",))
    with pytest.raises(UnsupportedBackboneError, match="expected float32 weights to merge"):
        warmed(gpt2, small_expert(gpt2, spec, 0.1), spec, torch.bfloat16)
