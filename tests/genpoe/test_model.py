"""The public API: load, inject, ask, remove."""

from __future__ import annotations

import pytest
import torch

from genpoe.hypernet.mean import MeanSettings
from genpoe.model import BackboneMismatchError, GenPoE
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone

ONE = Passage("1", "Tova Blick", "Tova Blick was born in Lisbon.")
TWO = Passage("2", "", "The old town by the sea.")
QUESTION = "Where was Tova Blick born?"


@pytest.fixture
def genpoe(tiny_backbone):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = MeanSettings(layer=1, rank=4, hidden_width=16, embedding_scaling="none")
        hypernet = settings.build(tiny_backbone)
        torch.nn.init.normal_(hypernet.linear2.weight, std=0.5)  # as if trained: the start is zero
    return GenPoE(tiny_backbone, hypernet.eval())


def logits(genpoe, rows=1):
    ids = torch.arange(5, 13).repeat(rows, 1)
    with torch.inference_mode():
        return genpoe.backbone.model(ids).logits


def test_passages_act_while_injected_and_leave_no_trace(genpoe):
    before, plain = logits(genpoe), genpoe.ask(QUESTION)
    with genpoe.injected([ONE, TWO]) as same:
        assert same is genpoe
        assert not torch.equal(logits(genpoe), before)
        assert isinstance(genpoe.ask(QUESTION, [ONE]), str)
    assert torch.equal(logits(genpoe), before)
    assert genpoe.ask(QUESTION) == plain


def test_relevance_weighs_the_experts(genpoe):
    with genpoe.injected([ONE]):
        alone = logits(genpoe)
    with genpoe.injected([ONE, TWO], [1.0, 0.0]):
        torch.testing.assert_close(logits(genpoe), alone)
    with genpoe.injected([ONE, TWO]):
        equal = logits(genpoe)
    with genpoe.injected([TWO, ONE], [0.5, 0.5]):
        torch.testing.assert_close(logits(genpoe), equal)
    assert not torch.allclose(equal, alone)


def test_rows_have_passages_of_their_own_and_may_differ_in_number(genpoe):
    with genpoe.injected([[ONE], [ONE, TWO], []], [[1.0], [0.5, 0.5], []]):
        together = logits(genpoe, rows=3)
    for i, row in enumerate([[ONE], [ONE, TWO]]):
        with genpoe.injected(row):
            torch.testing.assert_close(together[i : i + 1], logits(genpoe))
    torch.testing.assert_close(together[2:], logits(genpoe))  # no passage: the backbone itself
    with genpoe.injected([[ONE], [ONE, TWO], []]):  # equal weights are the default
        torch.testing.assert_close(logits(genpoe, rows=3), together)
    with genpoe.injected([]):
        torch.testing.assert_close(logits(genpoe), together[2:])


@pytest.mark.parametrize(
    ("passages", "relevance"),
    [([ONE], [0.5, 0.5]), ([[ONE], [TWO]], [[1.0]]), ([[ONE]], [1.0, 2.0])],
)
def test_relevance_of_another_shape_is_an_error(genpoe, passages, relevance):
    with pytest.raises(ValueError, match="one weight for each passage"):
        genpoe.inject(passages, relevance)
    assert not genpoe.expert_layer.active


def test_checkpoint_round_trip_and_backbone_mismatch(genpoe, tmp_path, tiny_tokenizer):
    path = tmp_path / "last.ckpt"
    genpoe.save(path)
    again = GenPoE.from_checkpoint(path, genpoe.backbone)
    assert torch.load(path, weights_only=True)["backbone"]["name"] == genpoe.backbone.name
    with genpoe.injected([ONE]):
        expected = logits(genpoe)
    with again.injected([ONE]):
        assert torch.equal(logits(again), expected)
    other = make_backbone(seed=7, tokenizer=tiny_tokenizer)
    with pytest.raises(BackboneMismatchError, match="was trained with the backbone tiny-llama-0"):
        GenPoE.from_checkpoint(path, other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hyper_parameters": {"lr": 1.0}}, "lacks 'layer'"),
        ({"hyper_parameters": {"hypernet": {"rank": 1}}}, "lacks 'class'"),
        ({"hyper_parameters": {"hypernet": {"class": "os.system"}}}, "no subclass of Hyper"),
        ({"hyper_parameters": {"hypernet": {"class": "no.such.Class"}}}, "cannot be imported"),
        (
            {"hyper_parameters": {"hypernet": {"class": "genpoe.hypernet.MeanSettings", "x": 1}}},
            "settings do not fit",
        ),
        ({"backbone": "tiny"}, "lacks string indices"),
        ({"state_dict": {"encoder.weight": torch.zeros(2)}}, "Missing key"),
    ],
)
def test_a_checkpoint_of_something_else_is_an_error(genpoe, tmp_path, change, why):
    path = tmp_path / "last.ckpt"
    genpoe.save(path)
    checkpoint = torch.load(path, weights_only=True)
    AtomicCheckpointIO().save_checkpoint(checkpoint | change, path)
    with pytest.raises(CheckpointError, match=f"no checkpoint of a hypernetwork: .*{why}.*; give"):
        GenPoE.from_checkpoint(path, genpoe.backbone)


def test_a_passage_that_the_hypernetwork_does_not_read_whole_is_said_once(genpoe, caplog):
    limit = genpoe.max_passage_tokens
    long = Passage("long", "", "violins " * (limit + 1))
    assert genpoe.tokens([ONE]).input_ids_PS.shape[1] < limit
    assert not caplog.text
    for _ in range(2):
        assert genpoe.tokens([ONE, long]).input_ids_PS.shape == (2, limit)
    assert caplog.text.count(f"passage 'long' has more than {limit} tokens") == 1
