"""Experts weighted by the router's scores."""

from __future__ import annotations

import pytest
import torch

from backbone.final_ffn import FinalFFN
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import RetrievalRouter
from dmoe.decoding.steps import Routing
from dmoe.decoding.trigger import ConstantTrigger
from dmoe.decoding.weighting import softmax_weights
from plumbing.mounts import SettingValueError
from retrieval.retriever import Hit
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.tiny import make_backbone

HITS = [Hit("p0", 30.0), Hit("p1", 28.0), Hit("p2", 5.0)]


class Found:
    """A retriever that finds the same hits for every query."""

    fingerprint = "found"

    def __init__(self, hits=HITS):
        self.hits = hits

    def search(self, queries, k):
        return [self.hits[:k] for _ in queries]


def test_weights_are_the_softmax_of_the_scores():
    scores = torch.tensor([hit.score for hit in HITS])
    for temperature in (0.01, 1.0, 7.0, 1e9):
        expected = (scores.double() / temperature).softmax(0)
        torch.testing.assert_close(
            torch.tensor(softmax_weights(HITS, temperature), dtype=torch.float64), expected
        )
    assert softmax_weights([], 1.0) == []


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "1", True, None])
def test_a_temperature_out_of_range_is_an_error(temperature):
    with pytest.raises(SettingValueError, match="temperature must be a finite, positive number"):
        RetrievalRouter({"p0"}, Found(), temperature)


def output(active, ffn, x):
    with active.attached():
        return ffn(x)


def test_each_projection_adds_the_weighted_terms():
    backbone = make_backbone()
    source, final = MemoryExperts(backbone, targets=("down",)), FinalFFN(backbone)
    x = torch.randn(2, 3, backbone.d_model)
    plain = final.ffn(x)

    def change(ids, weights=None):
        active = ActiveExperts(final, source, 2, 3)
        active.swap([0, 1], [ids] * 2, weights and [weights] * 2)
        return output(active, final.ffn, x) - plain

    # Experts on the down projection alone act linearly on the FFN's output.
    expected = 0.7 * change(["p0"]) + 0.2 * change(["p1"]) + 0.1 * change(["p2"])
    torch.testing.assert_close(change(["p0", "p1", "p2"], [0.7, 0.2, 0.1]), expected)
    assert torch.equal(change(["p0", "p1"], [1.0, 1.0]), change(["p0", "p1"]))


def test_other_weights_of_the_same_experts_are_a_change():
    backbone = make_backbone()
    active = ActiveExperts(FinalFFN(backbone), MemoryExperts(backbone), 1, 2)
    assert active.swap([0], [["p0", "p1"]], [[0.7, 0.3]]) == [0]
    assert active.swap([0], [["p1", "p0"]], [[0.3, 0.7]]) == []  # in another order
    assert active.swap([0], [["p0", "p1"]], [[0.3, 0.7]]) == [0]
    assert active.swap([0], [["p0", "p1"]]) == [0]


def decoded(weights, experts, temperature=1.0):
    backbone = make_backbone()
    source = MemoryExperts(backbone)
    router = RetrievalRouter(source, Found(), temperature)
    routing = Routing(source, router, ConstantTrigger(True), experts, weights=weights)
    session = DMoEDecoder(backbone, routing).start([DecoderInput("Question: a\nAnswer:")], 4)
    return [*session.stream(4, ())], session.score(["Lisbon"])[0]


def test_a_low_temperature_is_one_expert_and_a_high_one_the_mean():
    (one, one_nll), (sharp, sharp_nll) = decoded("sum", 1), decoded("router", 3, 0.05)
    assert [step.token_id for step in sharp] == [step.token_id for step in one]
    assert sharp_nll == pytest.approx(one_nll, rel=1e-4)
    assert sharp[0].weights == pytest.approx((1, 0, 0), abs=1e-6)
    flat, flat_nll = decoded("router", 3, 1e9)
    assert flat[0].weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    summed, summed_nll = decoded("sum", 3)
    assert summed[0].weights == (1, 1, 1)
    assert len({round(nll, 4) for nll in (one_nll, flat_nll, summed_nll)}) == 3
