"""The final FFN and what surrounds it, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.model import UnsupportedBackboneError
from tests.helpers.tiny import make_backbone

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2"]


def residual_of(backbone, ffn, ids):
    """The residual stream, by a hook on whatever reads it first."""
    seen = []
    reader = ffn.pre or ffn.ffn
    handle = reader.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    hidden = backbone.hidden_states(ids, torch.ones_like(ids))
    handle.remove()
    return seen[0], hidden


PLAIN = ("starcoder2", "gpt2")


@pytest.mark.parametrize("family", [*FAMILIES, *PLAIN, "phi3", "glm4", "granite"])
def test_going_on_from_the_residual_stream_is_the_model(family, tiny_tokenizer):
    special: dict[str, Any] = {"gpt2": {"n_inner": 48}, "granite": {"residual_multiplier": 0.5}}
    settings = special.get(family, {})
    backbone = make_backbone(family, tokenizer=tiny_tokenizer, **settings)
    ffn = FinalFFN(backbone)
    residual, hidden = residual_of(backbone, ffn, torch.randint(3, 300, (3, 7)))
    assert torch.equal(ffn.hidden(residual), hidden)
    assert list(ffn.sizes) == (["up", "down"] if family in PLAIN else ["gate", "up", "down"])
    assert ffn.sizes["down"] == (48, 32)


@pytest.mark.parametrize("family", ["llama", "phi3", "glm4", "gpt2", "granite"])
def test_adding_is_adding_to_the_weights(family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    ffn = FinalFFN(backbone)
    residual = torch.randn(5, 32)
    before = ffn.hidden(residual)
    deltas = {name: torch.randn(part.weight.shape) for name, part in ffn.projections.items()}
    with ffn.adding(lambda name, x: x @ deltas[name].mT, deltas):
        added = ffn.hidden(residual)
    assert torch.equal(ffn.hidden(residual), before)
    with torch.no_grad():
        for name, delta in deltas.items():
            weight = ffn.projections[name].weight
            weight += delta
    torch.testing.assert_close(added, ffn.hidden(residual))


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("olmoe", "OlmoeSparseMoeBlock is a sparse block, whose own router sends each token to a"),
        ("mixtral", "MixtralSparseMoeBlock is a sparse block"),
        ("phi", "got a PhiDecoderLayer that computes it beside its attention, from the same input"),
        ("cohere", "got a CohereDecoderLayer that computes it beside its attention"),
        ("bloom", "got a BloomBlock that does something else"),
    ],
)
def test_other_structures_are_refused_in_words_that_say_why(family, why, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    with pytest.raises(UnsupportedBackboneError, match=why):
        FinalFFN(backbone)
