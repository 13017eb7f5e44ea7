"""Generated experts in DMoE's decoder equal the obvious way: no cache, everything read anew."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from backbone.tokens import encode_answer
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import RandomRouter, RoutingRequest
from dmoe.decoding.steps import Routing
from dmoe.decoding.trigger import ConstantTrigger, FirstTrigger, NewToken, RandomTrigger
from dmoe.method import DMoEMethod
from genpoe.hypernet.mean import MeanSettings
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.method import GenPoEMethod
from genpoe.model import GenPoE
from genpoe.routed import CodesOnDemand, GeneratedKind
from qa.data.dataset import Question
from qa.method import BaseMethod, QuestionInput
from qa.passages.source import Selection
from retrieval.passage import Passage
from retrieval.retriever import Hit
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import PASSAGES, make_reader

MORE = Passage("4", "", "Dogs play violins in Lisbon. The surgeon was born by the sea, and later")
CORPUS = {passage.id: passage for passage in (*PASSAGES, MORE)}
QUESTIONS = ["Where was Tova Blick born?", "a", "Who wrote a quick brown fox by the old sea?"]
PROMPTS = [f"Answer the question.\nQuestion: {question}\nAnswer:" for question in QUESTIONS]
INPUTS = [DecoderInput(*pair) for pair in zip(PROMPTS, QUESTIONS, strict=True)]
ANSWERS = ["Lisbon", "the old town by the sea", "a"]


class ScoredRouter(RandomRouter):
    """Random passages, other ones at each query, with scores and not always k of them."""

    def route(self, requests, k):
        found = super().route(requests, k)
        return [
            [Hit(hit.passage_id, 0.7 * place) for place, hit in enumerate(hits)][
                : 1 + len(r.query) % k
            ]
            for r, hits in zip(requests, found, strict=True)
        ]


def make_mean(backbone):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hypernet = MeanSettings(layer=1, rank=4, hidden_width=16).build(backbone)
        genpoe = GenPoE(backbone, hypernet.eval())
        with torch.inference_mode():
            hypernet.fit(hypernet.encode(genpoe.tokens(list(CORPUS.values()))).clone())
        torch.nn.init.normal_(hypernet.linear2.weight, std=0.5)
    return genpoe


def make_kind(genpoe, **settings):
    return GeneratedKind(genpoe, CodesOnDemand(genpoe, CORPUS, **settings))


def make_routing(kind, trigger, experts=3, weights="router", **settings):
    source = kind.source
    settings = {"acting": kind.acting, "weights": weights} | settings
    return Routing(source, ScoredRouter(source), trigger, experts, **settings)


def by_row(steps, rows=3):
    steps = list(steps)
    return [[step for step in steps if step.row == row] for row in range(rows)]


@torch.inference_mode()
def obvious(genpoe, routing, input, max_new_tokens, answer=None):
    """Decode one row alone, and read all tokens anew at every token, with the experts injected.

    Returns:
        ``(id, uncertainty, experts, nll)`` for each token.
    """
    tokenizer = genpoe.backbone.tokenizer
    prompt, rows = tokenizer(input.prompt)["input_ids"], []
    hits: list[Hit] = []
    new: list[int] = []
    given = answer and encode_answer(tokenizer, answer)

    def read():
        ids = torch.tensor([prompt + new])
        weights = routing.weigh(hits)
        passages = [[CORPUS[hit.passage_id] for hit in hits]]
        relevance = [[weight / sum(weights) for weight in weights]]
        with genpoe.injected(passages, relevance):
            return genpoe.backbone.model(ids, use_cache=False).logits[:, -1]

    for position in range(len(given) if given else max_new_tokens):
        logits = read()
        uncertainty = float(torch.distributions.Categorical(logits=logits.double()).entropy())
        if routing.trigger.fires([uncertainty], [NewToken(position, input.task_input)])[0]:
            query = input.task_input + tokenizer.decode(new, skip_special_tokens=True)
            hits = routing.router.route([RoutingRequest(query)], routing.experts)[0]
            logits = read()
        token = given[position] if given else int(logits.argmax())
        acting = tuple(hit.passage_id for hit in hits)
        rows.append((token, uncertainty, acting, -float(logits.log_softmax(-1)[0, token])))
        new.append(token)
        if not given and token == tokenizer.eos_token_id:
            break
    return rows


def check(genpoe, routing):
    decoder = DMoEDecoder(genpoe.backbone, routing)
    session = decoder.start(INPUTS, 8)
    steps = by_row(session.stream(8, {genpoe.backbone.tokenizer.eos_token_id}))
    plain = list(DMoEDecoder(genpoe.backbone, make_never(routing)).stream(INPUTS, 8))
    assert {s.uncertainty for row in steps for s in row} - {s.uncertainty for s in plain}
    for row, input in zip(steps, INPUTS, strict=True):
        expected = obvious(genpoe, routing, input, 8)
        assert [(step.token_id, step.active) for step in row] == [(e[0], e[2]) for e in expected]
        uncertainty = torch.tensor([step.uncertainty for step in row])
        torch.testing.assert_close(
            uncertainty, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4
        )
    for nll, input, answer in zip(session.score(ANSWERS), INPUTS, ANSWERS, strict=True):
        expected = [e[3] for e in obvious(genpoe, routing, input, 0, answer)]
        assert nll == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    return steps


def make_never(routing):
    return Routing(routing.source, routing.router, ConstantTrigger(False), routing.experts)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "olmo2"])
def test_cached_decoding_equals_full_recomputation(family, tiny_tokenizer):
    genpoe = make_reader(make_backbone(family, tokenizer=tiny_tokenizer))
    steps = check(genpoe, make_routing(make_kind(genpoe), RandomTrigger(0.4)))
    steps = [step for row in steps for step in row]
    assert any(step.triggered for step in steps)
    assert any(not step.triggered and step.active for step in steps)
    assert len({len(step.active) for step in steps}) > 2


@pytest.mark.parametrize(
    "settings",
    [{"mixing": "experts"}, {"lexical": False}, {"follow": False}, {"query_layers": []}],
    ids=str,
)
def test_it_does_so_however_the_reader_is_set(settings, tiny_backbone):
    genpoe = make_reader(tiny_backbone, **settings)
    check(genpoe, make_routing(make_kind(genpoe), RandomTrigger(0.5), weights="sum"))


def test_it_does_so_for_the_papers_hypernetwork(tiny_backbone):
    genpoe = make_mean(tiny_backbone)
    check(genpoe, make_routing(make_kind(genpoe), RandomTrigger(0.4)))


@pytest.mark.parametrize("make", [make_reader, make_mean])
def test_a_row_does_not_depend_on_the_batch(make, tiny_backbone):
    genpoe = make(tiny_backbone)
    decoder = DMoEDecoder(
        tiny_backbone, make_routing(make_kind(genpoe, keep=1), RandomTrigger(0.5))
    )
    together = by_row(decoder.stream(INPUTS, 8))
    alone = [by_row(decoder.stream([input], 8), 1)[0] for input in INPUTS]
    turned = by_row(decoder.stream(INPUTS[::-1], 8))[::-1]
    for other in (alone, turned):
        for mine, theirs in zip(together, other, strict=True):
            assert [(s.token_id, s.active) for s in mine] == [
                (s.token_id, s.active) for s in theirs
            ]
            assert [s.uncertainty for s in mine] == pytest.approx([s.uncertainty for s in theirs])


class First:
    """Routes each question to one passage of its own."""

    uses_passages = False
    temperature = 1.0

    def route(self, requests, k):
        return [[Hit(str(1 + len(request.query) % 4), 1.0)][:k] for request in requests]


def as_inputs(router=None):
    inputs = []
    for place, question in enumerate(QUESTIONS):
        hits = router.route([RoutingRequest(question)], 1)[0] if router else []
        passages = Selection.uniform([CORPUS[hit.passage_id] for hit in hits])
        inputs.append(QuestionInput(Question(f"q{place}", question, (ANSWERS[place],)), passages))
    return inputs


@pytest.mark.parametrize("make", [make_reader, make_mean])
def test_routed_at_the_first_token_it_is_genpoe(make, tiny_backbone, tmp_path):
    genpoe = make(tiny_backbone)
    genpoe.save(tmp_path / "last.ckpt")
    kind = make_kind(genpoe)
    routed = DMoEMethod(
        tiny_backbone, kind.source, lambda _: First(), FirstTrigger(), 1, kind=kind
    ).answer(as_inputs())
    injected = GenPoEMethod(tiny_backbone, str(tmp_path / "last.ckpt")).answer(as_inputs(First()))
    assert [p.text for p in routed] == [p.text for p in injected]
    assert [p.nll for p in routed] == pytest.approx([p.nll for p in injected], abs=1e-5)
    base = BaseMethod(tiny_backbone).answer(as_inputs())
    assert all(r.nll != pytest.approx(b.nll, abs=1e-2) for r, b in zip(routed, base, strict=True))


def test_a_gate_that_is_shut_is_the_backbone(tiny_backbone):
    genpoe = make_reader(tiny_backbone)
    reader = genpoe.hypernet
    assert isinstance(reader, ReaderHypernet)
    with torch.no_grad():
        reader.gate.weight.zero_()
        reader.gate.bias.fill_(-1)
        reader.common.down1.zero_()
    routing = make_routing(make_kind(genpoe), ConstantTrigger(True))
    shut = list(DMoEDecoder(tiny_backbone, routing).stream(INPUTS, 6))
    plain = list(DMoEDecoder(tiny_backbone, make_never(routing)).stream(INPUTS, 6))
    assert [(s.token_id, s.uncertainty) for s in shut] == [
        (s.token_id, s.uncertainty) for s in plain
    ]
    assert all(step.active for step in shut)


@pytest.mark.parametrize("family", ["llama", "olmo2"])
@pytest.mark.parametrize("make", [make_reader, make_mean])
def test_noise_moves_the_output_as_far(make, family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    kind, changes = make_kind(make(backbone)), []
    for noise in (None, 0, 1):
        routing = make_routing(kind, FirstTrigger(), noise=noise)
        session = DMoEDecoder(backbone, routing).start(INPUTS, 2)
        list(session.stream(1, ()))
        rows = torch.tensor([2, 0])
        with torch.inference_mode():
            residual = session._residual.hidden_BPD[rows, 0]
            x = residual if session._final.pre is None else session._final.pre(residual)
            with session._active.attached(rows, 0):
                moved = session._final.ffn(x)
            changes.append(moved - session._final.ffn(x))
    experts, noise, other = changes
    torch.testing.assert_close(noise.norm(dim=-1), experts.norm(dim=-1), rtol=1e-4, atol=1e-4)
    assert experts.norm(dim=-1).min() > 1e-2
    for one, two in ((experts, noise), (experts, other), (noise, other)):
        assert torch.cosine_similarity(one, two, dim=-1).abs().max() < 0.7


def test_nothing_is_left_on_the_backbone(tiny_backbone):
    ids = torch.randint(3, 300, (2, 6))
    before = tiny_backbone.model(ids).logits
    genpoe = make_reader(tiny_backbone)
    decoder = DMoEDecoder(tiny_backbone, make_routing(make_kind(genpoe), ConstantTrigger(True)))
    for _ in decoder.stream(INPUTS, 4):
        assert torch.equal(tiny_backbone.model(ids).logits, before)


def test_experts_that_look_need_what_was_read(tiny_backbone):
    genpoe = make_reader(tiny_backbone)
    kind = make_kind(genpoe)
    decoder = DMoEDecoder(tiny_backbone, make_routing(kind, ConstantTrigger(True)))
    acting = decoder.routing.begin(decoder._final, 1)
    acting.swap([0], [["1"]])
    with pytest.raises(ValueError, match="let it read inside `watching`"), acting.attached():
        decoder._final.hidden(torch.zeros(1, tiny_backbone.d_model))


def test_codes_are_read_once_while_they_are_kept(tiny_backbone):
    genpoe = make_reader(tiny_backbone)
    make = partial(CodesOnDemand, genpoe, CORPUS)
    kept, few = make(), make(keep=1)
    for ids in (["1", "2"], ["2", "1", "4"], ["1"]):
        for codes in (kept, few):
            found = codes.get(ids)
            whole = genpoe.hypernet.code(
                genpoe.hypernet.encode(genpoe.tokens([CORPUS[id] for id in ids]))
            )
            assert torch.equal(found.ids_PS * found.mask_PS, whole.ids_PS * whole.mask_PS)
            inside = whole.mask_PS.bool()
            torch.testing.assert_close(found.keys_PSU[inside], whole.keys_PSU[inside])
    assert (kept.read, few.read) == (3, 5)
    assert list(kept) == list(CORPUS)
    assert "3" in kept
    assert "5" not in kept
    with pytest.raises(ValueError, match="keep must be at least 1, got 0; set keep"):
        make(keep=0)
