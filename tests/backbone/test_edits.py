"""Weights that are changed come back bit for bit."""

from __future__ import annotations

import random

import pytest
import torch

from backbone.edits import WeightEdits, state_hash
from tests.helpers.tiny import make_backbone

DOWN = "model.layers.1.mlp.down_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"
HEAD = "model.embed_tokens.weight"


def logits(backbone):
    with torch.inference_mode():
        return backbone.model(torch.arange(5, 13)[None]).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fifty_random_edits_and_rollbacks_leave_every_state_as_it_was(dtype, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    backbone.model.to(dtype)
    edits, chance = WeightEdits(backbone), random.Random(0)
    generator = torch.Generator().manual_seed(0)
    states = [(state_hash(backbone), logits(backbone), backbone.fingerprint)]
    for _ in range(50):
        if chance.random() < 0.6:
            names = chance.sample([DOWN, UP, HEAD], chance.randint(1, 2))
            parameters = dict(backbone.model.named_parameters())
            new = {
                name: parameters[name] * (1 + 1e-3 * torch.randn((), generator=generator))
                for name in names
            }
            assert edits.write(new) == len(states)
            states.append((state_hash(backbone), logits(backbone), backbone.fingerprint))
        else:
            edits.rollback(chance.randint(0, edits.commits))
            del states[edits.commits + 1 :]
        hashed, scores, fingerprint = states[-1]
        assert state_hash(backbone) == hashed
        assert torch.equal(logits(backbone), scores)
        assert backbone.fingerprint == fingerprint
    assert len({fingerprint for _, _, fingerprint in states}) == len(states)


def test_parameters_stay_the_objects_that_they_are(tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    before = {name: (id(p), p.data_ptr()) for name, p in backbone.model.named_parameters()}
    original, plain = backbone.fingerprint, logits(backbone)
    down = backbone.layers[1].mlp.down_proj.weight
    edits = WeightEdits(backbone)
    with edits.written({DOWN: 2 * down}) as edited:
        assert edited is backbone
        assert not torch.equal(logits(backbone), plain)
        assert backbone.fingerprint != original
    assert torch.equal(logits(backbone), plain)
    assert backbone.fingerprint == original
    assert {n: (id(p), p.data_ptr()) for n, p in backbone.model.named_parameters()} == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.layers.9.mlp", lambda w: w, "has no parameter 'model.layers.9.mlp'"),
        (DOWN, lambda w: w[:1], r"expected the shape \[32, 48\], got \[1, 48\]"),
        (DOWN, lambda w: w / 0, "the new value is not finite"),
    ],
)
def test_what_cannot_be_written_changes_nothing(tiny_tokenizer, name, change, message):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    edits, before = WeightEdits(backbone), state_hash(backbone)
    weight = backbone.layers[1].mlp.down_proj.weight.detach()
    with pytest.raises(ValueError, match=message):
        edits.write({UP: backbone.layers[0].mlp.up_proj.weight * 2, name: change(weight)})
    assert state_hash(backbone) == before
    assert edits.commits == 0
    with pytest.raises(ValueError, match=r"commits must be in 0\.\.0, got 1"):
        edits.rollback(1)


def test_an_interrupted_rollback_can_be_repeated(tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    before = state_hash(backbone)
    edits = WeightEdits(backbone)
    weights = dict(backbone.model.named_parameters())
    edits.write({name: weights[name] * 2 for name in (UP, DOWN)})

    def stop(_):
        raise KeyboardInterrupt

    weights[DOWN].copy_ = stop
    with pytest.raises(KeyboardInterrupt):
        edits.rollback()
    del weights[DOWN].copy_
    assert edits.commits == 1
    edits.rollback()
    assert state_hash(backbone) == before
