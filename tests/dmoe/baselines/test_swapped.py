"""Experts of several layers that are swapped while decoding, and what stays in the cache."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from backbone.tokens import encode_answer, encode_prompt
from dmoe.baselines.placed import load_placed
from dmoe.baselines.swapped import load_swapped
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.router import OracleRouter
from dmoe.decoding.trigger import ConstantTrigger, FirstTrigger, UncertaintyTrigger
from dmoe.method import DMoEMethod
from qa.method import BaseMethod
from tests.dmoe.baselines.test_placed import GOLD, PASSAGES, settings  # noqa: F401  # a fixture
from tests.helpers.tiny import make_backbone


@pytest.fixture
def make(tiny_backbone, settings):  # noqa: F811
    def method(placement=1.0, trigger=None, **changes):
        given = {**settings, "experts": 1, "max_new_tokens": 6, **changes}
        trigger = trigger or FirstTrigger()
        return load_swapped(tiny_backbone, placement, OracleRouter, trigger, PASSAGES, **given)

    return method


def by_hand(backbone, source, input):
    """Read the prompt but for its last token without experts, and all that follows with one."""
    ids = encode_prompt(backbone.tokenizer, input.question.prompt())
    active = ActiveExperts(source.adapters.ffns, source, 1, 1)

    def read(tokens, cache):
        return backbone.model(torch.tensor([tokens]), past_key_values=cache).logits[0, -1]

    def continued(given=None):
        cache = DynamicCache()
        read(ids[:-1], cache)
        active.swap([0], [input.question.passage_ids])
        last, new, nll = ids[-1], [], []
        with active.attached():
            for t in range(6 if given is None else len(given)):
                logits = read([last], cache)
                last = int(logits.argmax()) if given is None else given[t]
                new.append(last)
                nll.append(-float(logits.log_softmax(-1)[last]))
                if given is None and last in backbone.stop_token_ids:
                    break
        return new, sum(nll) / len(nll)

    answer = encode_answer(backbone.tokenizer, input.question.answers[0])
    with torch.no_grad():
        return continued()[0], continued(answer)[1]


def test_it_reads_the_prompt_without_experts_and_goes_on_with_them(make, tiny_backbone):
    method = make()
    for input in GOLD:
        (prediction,) = method.answer([input])
        tokens, nll = by_hand(tiny_backbone, method.decoder.routing.source, input)
        assert prediction.details["tokens"] == len(tokens)
        assert prediction.text == method.decoder.text([SimpleNamespace(token_id=t) for t in tokens])
        assert prediction.nll == pytest.approx(nll, rel=1e-4)
        assert prediction.details["routed"] == [
            {"position": 0, "passage_ids": list(input.question.passage_ids)}
        ]


class Renamed:
    """The adapters of the final layer under the names that the experts of a bank have."""

    def __init__(self, source):
        self._source, self.scaling = source, source.scaling

    def __contains__(self, id):
        return id in self._source

    def __iter__(self):
        return iter(self._source)

    def get(self, ids):
        return {name.partition(".")[2]: each for name, each in self._source.get(ids).items()}


@pytest.mark.parametrize("trigger", [UncertaintyTrigger(3.0), ConstantTrigger(True)])
def test_on_the_final_layer_alone_it_is_dmoe(make, tiny_backbone, trigger):
    method = make(0, trigger)
    source = Renamed(method.decoder.routing.source)
    dmoe = DMoEMethod(tiny_backbone, source, OracleRouter, trigger, experts=1, max_new_tokens=6)
    ours, theirs = method.answer(GOLD), dmoe.answer(GOLD)
    assert [each.text for each in ours] == [each.text for each in theirs]
    assert [each.nll for each in ours] == pytest.approx([each.nll for each in theirs], rel=1e-4)
    for one, other in zip(ours, theirs, strict=True):
        assert one.details["routed"] == other.details["routed"]
        assert one.details["uncertainty"] == pytest.approx(other.details["uncertainty"], abs=1e-3)


def test_a_stale_cache_is_what_makes_it_differ_from_routing_once(make, tiny_backbone, settings):  # noqa: F811
    def fresh(placement):
        given = {**settings, "experts": 1, "max_new_tokens": 6}
        return load_placed(tiny_backbone, placement, OracleRouter, PASSAGES, **given)

    for placement, equal in ((0, True), (1, False)):
        stale = [each.nll for each in make(placement).answer(GOLD)]
        routed = [each.nll for each in fresh(placement).answer(GOLD)]
        assert (stale == pytest.approx(routed, rel=1e-4)) is equal


def test_rows_do_not_depend_on_each_other_and_nothing_is_left(make, tiny_backbone):
    method = make(trigger=UncertaintyTrigger(3.0))
    before = BaseMethod(tiny_backbone, max_new_tokens=6).answer(GOLD)
    together = method.answer(GOLD)
    alone = [method.answer([input])[0] for input in GOLD]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.nll for each in together] == pytest.approx([each.nll for each in alone], rel=1e-4)
    assert method.measure(together)["adapters_trained"] == 2
    never = make(trigger=ConstantTrigger(False)).answer(GOLD)
    assert [each.text for each in never] == [each.text for each in before]
    assert [each.nll for each in never] == pytest.approx([each.nll for each in before], rel=1e-4)


def test_what_is_refused(make, settings, tiny_tokenizer):  # noqa: F811
    with pytest.raises(ValueError, match=r"method=swapped needs .*ablation=placement$"):
        make(recipe=None)
    with pytest.raises(ValueError, match="method=swapped has no passages in the prompt, got rag"):
        make(rag=True)
    sliding = make_backbone("mistral", tokenizer=tiny_tokenizer, sliding_window=4)
    with pytest.raises(ValueError, match="its cache cannot be cut back by one token"):
        load_swapped(sliding, 1.0, OracleRouter, FirstTrigger(), PASSAGES, **settings)
