"""States over token trees are those of the plain model, each computed only once."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbone.final_ffn import FinalFFN
from backbone.split import Trunk
from backbone.token_tree import TokenTree, pack_trees
from dmoe.training.instances import Encoded
from dmoe.training.label_states import label_states
from tests.helpers.tiny import make_backbone

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2"]
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


@given(SEQUENCES)
def test_a_tree_holds_every_sequence_and_each_prefix_once(sequences):
    tree = TokenTree()
    paths = [tree.add(sequence) for sequence in sequences]
    above = tree.ancestors()
    for sequence, path in zip(sequences, paths, strict=True):
        assert [tree.ids[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(path)))
        for depth, node in enumerate(path):  # a node attends only to its own prefix
            assert above[node].nonzero().flatten().tolist() == sorted(path[: depth + 1])
    prefixes = {tuple(s[:end]) for s in sequences for end in range(1, len(s) + 1)}
    assert len(tree) == len(prefixes)


def test_padding_attends_to_itself_alone():
    small, large = TokenTree(), TokenTree()
    small.add([7])
    large.add([5, 6, 7])
    ids, positions, attends = pack_trees([small, large])
    assert ids.tolist() == [[7, 0, 0], [5, 6, 7]]
    assert positions.tolist() == [[0, 0, 0], [0, 1, 2]]
    assert torch.equal(attends[0], torch.eye(3, dtype=torch.bool))
    assert torch.equal(attends[1], torch.ones(3, 3, dtype=torch.bool).tril())


def passages(seed=0, count=4):
    """Make instances of several passages; the instances of a passage share a prefix."""
    draw = random.Random(seed)

    def tokens(low, high):
        return [draw.randrange(3, 300) for _ in range(draw.randrange(low, high))]

    found = []
    for _ in range(count):
        prefix = tokens(2, 12)
        instances = [(*prefix, *tokens(1, 8)) for _ in range(draw.randrange(1, 5))]
        found.append([Encoded(ids, draw.choice([1, len(prefix)])) for ids in instances])
    return found


def plain_residual(backbone, ffn, ids):
    seen = []
    handle = (ffn.pre or ffn.ffn).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ids = torch.tensor([ids])
    backbone.hidden_states(ids, torch.ones_like(ids))
    handle.remove()
    return seen[0][0]


def check(backbone, instances, **limits):
    ffn = FinalFFN(backbone)
    states = label_states(Trunk(ffn), instances, **limits)
    for each, found in zip(instances, states.instances, strict=True):
        assert len(each) == len(found)
        for encoded, instance in zip(each, found, strict=True):
            first = encoded.first_label
            assert instance.targets.tolist() == list(encoded.ids[first:])
            expected = plain_residual(backbone, ffn, encoded.ids)[first - 1 : -1]
            torch.testing.assert_close(
                states.residual_AD[instance.rows], expected, rtol=1e-4, atol=1e-4
            )
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_plain_model(family, tiny_tokenizer):
    """Some of the families have sliding windows that are shorter than the sequences."""
    sliding = {"sliding_window": 6} if family in ("mistral", "gemma2", "gemma3_text") else {}
    check(make_backbone(family, tokenizer=tiny_tokenizer, **sliding), passages())


def test_eager_attention_and_layers_that_attend_differently(tiny_tokenizer):
    settings: Any = {"attn_implementation": "eager", "num_hidden_layers": 3, "sliding_window": 5}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    backbone = make_backbone("gemma2", tokenizer=tiny_tokenizer, layer_types=kinds, **settings)
    check(backbone, passages())


@pytest.mark.parametrize("trunk_tokens", [24, 40, 10_000])
def test_limits_change_nothing(trunk_tokens, tiny_backbone, monkeypatch):
    read = []
    residual = Trunk.residual

    def watched(self, trees):
        read.append(len(trees) * max(map(len, trees)))
        return residual(self, trees)

    monkeypatch.setattr(Trunk, "residual", watched)
    check(tiny_backbone, passages(1, 6), trunk_tokens=trunk_tokens)
    assert max(read) <= trunk_tokens


def test_what_is_shared_is_computed_and_kept_once(tiny_backbone, monkeypatch):
    read: list[int] = []
    residual = Trunk.residual

    def watched(self, trees):
        read.extend(map(len, trees))
        return residual(self, trees)

    monkeypatch.setattr(Trunk, "residual", watched)
    prefix = tuple(range(3, 43))
    instances = [[Encoded((*prefix, 100 + i, 200), 1) for i in range(5)]]
    states = check(tiny_backbone, instances)
    assert read == [40 + 5]
    assert len(states.residual_AD) == 40 + 5


def test_the_backbone_is_left_as_it_is(tiny_backbone):
    ids = torch.tensor([[5, 6, 7]])
    before = tiny_backbone.hidden_states(ids, torch.ones_like(ids))
    modules = dict(tiny_backbone.model.named_modules())
    check(tiny_backbone, passages())
    assert dict(tiny_backbone.model.named_modules()) == modules
    assert torch.equal(tiny_backbone.hidden_states(ids, torch.ones_like(ids)), before)


def test_no_instances_no_states(tiny_backbone):
    states = label_states(Trunk(FinalFFN(tiny_backbone)), [[], []])
    assert states.residual_AD.shape == (0, 32)
    assert states.instances == [[], []]


def test_an_instance_larger_than_the_limit_is_an_error(tiny_backbone):
    with pytest.raises(
        ValueError,
        match=r"an instance has 8 tokens, more than the 4 .*set trunk_tokens of the limits",
    ):
        label_states(Trunk(FinalFFN(tiny_backbone)), [[Encoded(tuple(range(9)), 1)]], 4)
