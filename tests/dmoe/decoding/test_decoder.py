"""Cached decoding with routed experts equals the obvious way: no cache, and merged weights."""

from __future__ import annotations

import copy

import pytest
import torch

from backbone.decoding import greedy_decode, score_answers
from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from backbone.tokens import encode_answer, encode_prompt, stop_token_ids
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import OracleRouter, RandomRouter, RoutingRequest
from dmoe.decoding.session import Session
from dmoe.decoding.steps import Routing
from dmoe.decoding.trigger import (
    ConstantTrigger,
    NewToken,
    RandomTrigger,
    UncertaintyTrigger,
    token_uncertainty,
)
from retrieval.retriever import Hit
from tests.helpers.dmoe_doubles import RANK, MemoryExperts
from tests.helpers.table_model import make_spiece_tokenizer, make_table_model
from tests.helpers.tiny import CORPUS, make_backbone

PROMPTS = ["Question: a\nAnswer:", "Question: Where was Tova Blick born?\nAnswer:", "b c\nAnswer:"]
INPUTS = [
    DecoderInput(PROMPTS[0], "a"),
    DecoderInput(PROMPTS[1], "Where was Tova Blick born?", ("p3", "p1")),
    DecoderInput(PROMPTS[2]),
]
# The uncertainty of some of the tiny model's tokens is above this threshold, of others below.
TAU = 5.46
NEVER = ConstantTrigger(False)
ALWAYS = ConstantTrigger(True)


def make_decoder(backbone, trigger=None, router=None, source=None, **settings):
    source = source or MemoryExperts(backbone)
    trigger = trigger or UncertaintyTrigger(TAU)
    return DMoEDecoder(
        backbone, Routing(source, router or RandomRouter(source), trigger, **settings)
    )


def by_row(steps, rows=3):
    steps = list(steps)
    return [[step for step in steps if step.row == row] for row in range(rows)]


def merged(backbone, source, ids):
    """Copy the model, and add the experts to the weights of its final FFN."""
    if not ids:
        return backbone.model
    model = copy.deepcopy(backbone.model)
    ffn = model.get_decoder().layers[-1].mlp
    for id in ids:
        expert = source.experts[id]
        for target in {key.partition(".")[0] for key in expert}:
            delta = expert[f"{target}.lora_B"] @ expert[f"{target}.lora_A"]
            getattr(ffn, f"{target}_proj").weight.data += source.scaling * delta
    return model


@torch.inference_mode()
def obvious(backbone, routing, input, max_new_tokens, answer=None):
    """Decode one row alone, and recompute everything at every token.

    Returns:
        ``(id, uncertainty, experts, nll)`` for each token.
    """
    tokenizer = backbone.tokenizer
    prompt, active, rows = tokenizer(input.prompt)["input_ids"], (), []
    new: list[int] = []
    task = input.prompt if input.task_input is None else input.task_input
    given = answer and encode_answer(tokenizer, answer)
    for position in range(len(given) if given else max_new_tokens):
        ids = torch.tensor([prompt + new])
        logits = merged(backbone, routing.source, active)(ids, use_cache=False).logits[:, -1]
        uncertainty = float(torch.distributions.Categorical(logits=logits.double()).entropy())
        if routing.trigger.fires([uncertainty], [NewToken(position, task)])[0]:
            query = task + tokenizer.decode(new, skip_special_tokens=True)
            hits = routing.router.route([RoutingRequest(query, input.given)], routing.experts)[0]
            active = tuple(hit.passage_id for hit in hits)
            logits = merged(backbone, routing.source, active)(ids, use_cache=False).logits[:, -1]
        token = given[position] if given else int(logits.argmax())
        rows.append((token, uncertainty, active, -float(logits.log_softmax(-1)[0, token])))
        new.append(token)
        if not given and token == tokenizer.eos_token_id:
            break
    return rows


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "olmo2"])
def test_cached_decoding_equals_full_recomputation(family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    decoder = make_decoder(backbone, RandomTrigger(0.4))
    rows = by_row(decoder.stream(INPUTS, 8))
    assert any(step.triggered for row in rows for step in row)
    assert any(not step.triggered and step.active for row in rows for step in row)
    for row, input in zip(rows, INPUTS, strict=True):
        expected = obvious(backbone, decoder.routing, input, 8)
        assert [(step.token_id, step.active) for step in row] == [(e[0], e[2]) for e in expected]
        uncertainty = torch.tensor([step.uncertainty for step in row])
        torch.testing.assert_close(
            uncertainty, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4
        )


def test_it_triggers_where_the_uncertainty_of_the_effective_model_is_high(tiny_backbone):
    rows = by_row(make_decoder(tiny_backbone).stream(INPUTS, 12))
    steps = [step for row in rows for step in row]
    assert 0 < sum(step.triggered for step in steps) < len(steps)
    assert all(step.triggered == (step.uncertainty > TAU) for step in steps)
    for row, input in zip(rows, INPUTS, strict=True):
        expected = obvious(tiny_backbone, make_decoder(tiny_backbone).routing, input, 12)
        assert [(step.token_id, step.active) for step in row] == [(e[0], e[2]) for e in expected]


def test_experts_stay_until_the_next_trigger_and_then_all_leave(tiny_backbone):
    for row in by_row(make_decoder(tiny_backbone, RandomTrigger(0.4)).stream(INPUTS, 12)):
        active = ()
        for step in row:
            if step.triggered:
                active = tuple(hit.passage_id for hit in step.routed)
            else:
                assert step.routed == ()
            assert step.active == active


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_kv_cache_is_bit_equal_before_and_after_a_swap(family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    source = MemoryExperts(backbone)
    sessions: list[Session] = []
    before: list[list[torch.Tensor]] = []

    class Watching(RandomRouter):
        def route(self, requests, k):
            before.append([t.clone() for t in tensors(sessions[0].cache)])
            return super().route(requests, k)

    def tensors(cache):
        return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]

    decoder = make_decoder(backbone, ALWAYS, Watching(source), source)
    sessions.append(decoder.start(INPUTS, 4))
    plain = make_decoder(backbone, NEVER).start(INPUTS, 1)
    list(plain.stream(1, ()))
    prompt_length = plain.cache.get_seq_length()
    for step in sessions[0].stream(4, ()):
        after = tensors(sessions[0].cache)
        assert len(after) == 4
        assert all(torch.equal(*pair) for pair in zip(before[-1], after, strict=True))
        assert after[0].shape[2] == prompt_length + step.position
    # Experts never change a key or a value, so those of the prompt are the plain model's.
    for mine, theirs in zip(after, tensors(plain.cache), strict=True):
        assert torch.equal(mine[:, :, :prompt_length], theirs)
    assert len(before) == 4


def test_never_triggering_is_the_backbone_alone(tiny_backbone):
    decoded = greedy_decode(tiny_backbone, PROMPTS, 12)
    decoder = make_decoder(tiny_backbone, NEVER)
    session = decoder.start(INPUTS, 12)
    rows = by_row(session.stream(12, stop_token_ids(tiny_backbone.tokenizer)))
    texts = [
        tiny_backbone.tokenizer.decode([step.token_id for step in row], skip_special_tokens=True)
        for row in rows
    ]
    assert [text.strip().split("\n")[0].strip() for text in texts] == decoded.texts
    assert decoder.routing.source.asked == []
    answers = ["Lisbon", "the old town by the sea", "a"]
    expected = score_answers(tiny_backbone, decoded, answers)
    torch.testing.assert_close(torch.tensor(session.score(answers)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2"])  # gemma2 has layers with a sliding window
def test_answers_are_scored_by_the_model_that_decodes(family, read_before, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    decoder = make_decoder(backbone, RandomTrigger(0.5))
    session = decoder.start(INPUTS, 6)
    if read_before:
        list(session.stream(6, ()))
    answers = ["Lisbon", "the old town by the sea", "a"]
    nll = session.score(answers)
    for row, (input, answer) in enumerate(zip(INPUTS, answers, strict=True)):
        expected = [e[3] for e in obvious(backbone, decoder.routing, input, 0, answer)]
        assert nll[row] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert session.score(answers) == pytest.approx(nll, rel=1e-5)


def test_scoring_reads_the_head_once_a_token(tiny_backbone):
    """It reads the head once more if the experts have changed."""
    source, calls = MemoryExperts(tiny_backbone), []
    given = [DecoderInput(prompt, given=("p1",)) for prompt in PROMPTS]
    session = make_decoder(tiny_backbone, ALWAYS, OracleRouter(source), source).start(given, 1)
    handle = tiny_backbone.head.register_forward_hook(lambda *_: calls.append(1))
    session.score(["the old town"] * 3)
    handle.remove()
    tokens = len(encode_answer(tiny_backbone.tokenizer, "the old town"))
    assert len(calls) == tokens + 1


def test_padding_and_the_rest_of_the_batch_change_nothing(tiny_backbone):
    decoder = make_decoder(tiny_backbone)
    together = by_row(decoder.stream(INPUTS, 10))
    alone = [by_row(decoder.stream([input], 10), 1)[0] for input in INPUTS]
    turned = by_row(decoder.stream(INPUTS[::-1], 10))[::-1]
    for other in (alone, turned):
        for mine, theirs in zip(together, other, strict=True):
            assert [s.token_id for s in mine] == [s.token_id for s in theirs]
            assert [s.active for s in mine] == [s.active for s in theirs]
            assert [s.uncertainty for s in mine] == pytest.approx([s.uncertainty for s in theirs])


def test_a_session_can_start_again(tiny_backbone):
    session = make_decoder(tiny_backbone).start(INPUTS, 5)
    first = by_row(session.stream(5, ()))
    session.score(["Lisbon"] * 3)
    assert by_row(session.stream(5, ())) == first


def test_rows_end_on_their_own(tiny_backbone):
    decoder = make_decoder(tiny_backbone)
    free = by_row(decoder.stream(INPUTS, 10, stop_ids=()))
    stop = free[1][3].token_id
    rows = by_row(decoder.stream(INPUTS, 10, stop_ids={stop}))
    for row, whole in zip(rows, free, strict=True):
        ids = [step.token_id for step in whole]
        end = ids.index(stop) + 1 if stop in ids else 10
        assert [step.token_id for step in row] == ids[:end]


def test_the_query_is_the_task_and_what_was_decoded_without_the_triggering_token(tiny_backbone):
    queries: list = []

    class Noting:
        uses_passages = False

        def route(self, requests, k):
            queries.append([request.query for request in requests])
            return [[] for _ in requests]

    decoder = make_decoder(tiny_backbone, ALWAYS, Noting())
    rows = by_row(decoder.stream(INPUTS, 4, stop_ids=()))
    tasks = ["a", "Where was Tova Blick born?", PROMPTS[2]]
    for position in range(4):
        for row, task in enumerate(tasks):
            before = [step.token_id for step in rows[row][:position]]
            decoded = tiny_backbone.tokenizer.decode(before, skip_special_tokens=True)
            assert queries[position][row] == task + decoded


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_the_query_keeps_the_task_and_the_first_decoded_word_apart(kind, tiny_tokenizer):
    tokenizer = pieces_tokenizer() if kind == "pieces" else tiny_tokenizer
    backbone = make_backbone(tokenizer=tokenizer)
    final = FinalFFN(backbone)
    queries: list = []

    class Noting:
        uses_passages = False
        temperature = 1.0

        def route(self, requests, k):
            queries.append(*(request.query for request in requests))
            return [[] for _ in requests]

    routing = Routing(MemoryExperts(backbone), Noting(), ALWAYS)
    for task in ["Where was Tova Blick", "Where was Tova Blick "]:
        queries.clear()
        ids = torch.tensor([encode_prompt(tokenizer, "Question: a\nAnswer:")])
        session = Session(final, routing, ids, torch.ones_like(ids), [RoutingRequest(task)])
        session.score(["born in Lisbon"])
        assert queries[0] == task
        ends = [" ".join(query.split()) for query in queries]
        assert ends[-1] == "Where was Tova Blick born in Lisbon"
        assert all(end.startswith("Where was Tova Blick b") or end == task.strip() for end in ends)


def pieces_tokenizer():
    """Make a tokenizer that, like SentencePiece, drops the space before the first word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    first = made(" born", add_special_tokens=False)["input_ids"]
    assert made.decode(first) == "born"
    return made


def test_a_long_query_keeps_its_last_tokens(tiny_backbone):
    queries: list = []

    class Noting:
        uses_passages = False

        def route(self, requests, k):
            queries.extend(request.query for request in requests)
            return [[] for _ in requests]

    decoder = make_decoder(tiny_backbone, ALWAYS, Noting(), max_query_tokens=5)
    list(decoder.stream([INPUTS[1]], 1))
    tokenizer = tiny_backbone.tokenizer
    assert queries == [tokenizer.decode(tokenizer(INPUTS[1].task_input)["input_ids"][-5:])]
    assert queries[0].endswith("Blick born?")


def test_an_oracle_is_told_the_given_passages(tiny_backbone):
    source = MemoryExperts(tiny_backbone)
    rows = by_row(make_decoder(tiny_backbone, ALWAYS, OracleRouter(source), source).stream(INPUTS))
    assert {step.active for step in rows[1]} == {("p3", "p1")}
    assert {step.active for step in rows[0] + rows[2]} == {()}


def test_experts_that_are_there_already_are_not_read_again(tiny_backbone):
    source = MemoryExperts(tiny_backbone)
    decoder = make_decoder(tiny_backbone, ALWAYS, OracleRouter(source), source)
    list(decoder.stream(INPUTS, 6, stop_ids=()))
    assert source.asked == [["p3", "p1"]]


def test_without_a_hit_the_backbone_goes_on_alone(tiny_backbone):
    class OnceOnly:
        """A router that finds a passage at the first trigger, and none afterwards."""

        uses_passages = False
        asked = 0

        def route(self, requests, k):
            self.asked += 1
            return [[Hit("p1", 1.0)] if self.asked == 1 else [] for _ in requests]

    decoder = make_decoder(tiny_backbone, ALWAYS, OnceOnly())
    rows = by_row(decoder.stream(INPUTS, 5))
    for row, input in zip(rows, INPUTS, strict=True):
        assert [step.active for step in row[:2]] == [("p1",), ()]
        decoder.routing.router.asked = 0
        expected = obvious(tiny_backbone, decoder.routing, input, 5)
        assert [step.token_id for step in row] == [e[0] for e in expected]


def test_a_stream_leaves_nothing_on_the_backbone(tiny_backbone):
    ids = torch.randint(3, 300, (2, 6))
    state = {name: tensor.clone() for name, tensor in tiny_backbone.model.state_dict().items()}
    before = tiny_backbone.model(ids).logits
    stream = make_decoder(tiny_backbone, ALWAYS).stream(INPUTS, 8)
    next(stream)
    next(stream)
    assert torch.equal(tiny_backbone.model(ids).logits, before)  # the stream is between two steps
    stream.close()
    assert torch.equal(tiny_backbone.model(ids).logits, before)
    assert all(torch.equal(state[n], t) for n, t in tiny_backbone.model.state_dict().items())


def test_zero_experts_change_no_bit(tiny_backbone):
    source = MemoryExperts(tiny_backbone)
    for expert in source.experts.values():
        for key in expert:
            if key.endswith("lora_B"):
                expert[key].zero_()
    plain = by_row(make_decoder(tiny_backbone, NEVER).stream(INPUTS, 6))
    zero = by_row(make_decoder(tiny_backbone, ALWAYS, source=source).stream(INPUTS, 6))
    for mine, theirs in zip(zero, plain, strict=True):
        assert [(s.token_id, s.uncertainty) for s in mine] == [
            (s.token_id, s.uncertainty) for s in theirs
        ]


def test_generate_is_hugging_faces_when_nothing_triggers(tiny_backbone):
    tokenizer = tiny_backbone.tokenizer
    tokenizer.padding_side = "left"
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = tiny_backbone.model.generate(ids, attention_mask=mask, max_new_tokens=7)
    decoder = make_decoder(tiny_backbone, NEVER)
    assert torch.equal(decoder.generate(ids, mask, max_new_tokens=7), expected)
    assert torch.equal(decoder.generate(ids[:1, 5:], max_new_tokens=7)[:, :-7], ids[:1, 5:])


def test_generate_pads_behind_a_rows_end(tiny_backbone):
    decoder = make_decoder(tiny_backbone, RandomTrigger(0.4))
    tokenizer = tiny_backbone.tokenizer
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    inputs = [DecoderInput(prompt) for prompt in PROMPTS]
    free = by_row(decoder.stream(inputs, 6, stop_ids=()))
    stop = free[1][2].token_id
    output = decoder.generate(ids, mask, 6, stop_ids={stop})
    assert torch.equal(output[:, : ids.shape[1]], ids)
    new = output[1, ids.shape[1] :].tolist()
    assert new[:3] == [step.token_id for step in free[1][:3]]
    assert set(new[3:]) <= {tokenizer.pad_token_id}


def test_generate_refuses_padding_on_the_right(tiny_backbone):
    ids = torch.full((2, 4), 7)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with pytest.raises(ValueError, match=r"padding on the left only.*padding_side = 'left'"):
        make_decoder(tiny_backbone).generate(ids, mask)
    with pytest.raises(ValueError, match=r"expected a mask of the shape \[2, 4\]"):
        make_decoder(tiny_backbone).generate(ids, mask[:, :2])
    with pytest.raises(ValueError, match="padding on the left only"):  # the mask has a hole
        make_decoder(tiny_backbone).generate(ids, torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1]]))


def test_generate_refuses_what_it_cannot_read(tiny_backbone):
    decoder, ids = make_decoder(tiny_backbone), torch.full((2, 4), 7)
    with pytest.raises(ValueError, match="the prompt in row 1 is empty"):
        decoder.generate(ids, torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0]]))
    for empty in (ids[:, :0], ids[:0], ids[0]):
        with pytest.raises(ValueError, match=r"expected prompts of one token or more, \[B, T\]"):
            decoder.generate(empty)
    with pytest.raises(ValueError, match="max_new_tokens must be positive, got 0"):
        decoder.generate(ids, max_new_tokens=0)
    with pytest.raises(ValueError, match="exceed the 512 positions"):
        decoder.generate(ids, max_new_tokens=509)
    mask = torch.ones(2, 600, dtype=torch.long)
    mask[:, :-4] = 0  # the padding needs no positions
    padded = decoder.generate(torch.full((2, 600), 7), mask, max_new_tokens=2)
    assert torch.equal(padded[:, -2:], decoder.generate(ids, max_new_tokens=2)[:, -2:])


def test_a_stream_needs_a_prompt_and_something_to_decode(tiny_backbone):
    decoder = make_decoder(tiny_backbone)
    assert list(decoder.stream([])) == []
    with pytest.raises(ValueError, match="expected at least one input, got none"):
        decoder.start([], 4)
    with pytest.raises(ValueError, match="max_new_tokens must be positive, got 0"):
        decoder.stream(INPUTS, 0)
    with pytest.raises(ValueError, match="the prompt in row 1 is empty"):
        decoder.stream([INPUTS[0], DecoderInput("")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_entropy_is_eq_1(dtype):
    logits = (5 * torch.randn(4, 50)).to(dtype)
    p = logits.double().softmax(-1)
    expected = -(p * p.log()).sum(-1).float()
    torch.testing.assert_close(token_uncertainty(logits), expected, rtol=1e-5, atol=1e-5)
    certain = torch.tensor([[0.0, -torch.inf, -200.0]])  # p = 0 adds nothing to the entropy
    assert 0 <= token_uncertainty(certain).item() < 1e-30
    assert token_uncertainty(torch.zeros(1, 50)).item() == pytest.approx(torch.tensor(50.0).log())


@pytest.mark.parametrize("targets", [("gate", "up", "down"), ("down",), ("gate", "up")])
def test_a_set_of_experts_is_the_sum_of_their_outputs(tiny_backbone, targets):
    source = MemoryExperts(tiny_backbone, targets=targets)
    final = FinalFFN(tiny_backbone)
    active = ActiveExperts(final, source, rows=3, k=3)
    sets = [("p0", "p1", "p2"), (), ("p2",)]
    assert active.swap([0, 1, 2], sets) == [0, 2]  # nothing changed in the second row
    assert active.ids == sets
    residual = torch.randn(3, 5, 32)
    with active.attached():
        mixed = final.hidden(residual)
    with active.attached(torch.tensor([2, 0])):
        some = final.hidden(residual[[2, 0], 1])
    ffn = tiny_backbone.ffn(1)
    for row, ids in enumerate(sets):
        x = final.pre(residual[row])
        hidden = x @ ffn.up_proj.weight.T + sum_of(source, ids, "up", x)
        gate = x @ ffn.gate_proj.weight.T + sum_of(source, ids, "gate", x)
        inner = torch.nn.functional.silu(gate) * hidden
        out = inner @ ffn.down_proj.weight.T + sum_of(source, ids, "down", inner)
        expected = tiny_backbone.final_norm(residual[row] + out)
        torch.testing.assert_close(mixed[row], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(some, mixed[[2, 0], 1], rtol=1e-4, atol=1e-4)


def sum_of(source, ids, target, x):
    """Add up the outputs of the experts, each computed separately with its own A and B."""
    total = torch.zeros(())
    for id in ids:
        expert = source.experts[id]
        if f"{target}.lora_A" in expert:
            a, b = expert[f"{target}.lora_A"], expert[f"{target}.lora_B"]
            assert a.shape[0] == RANK
            total = total + source.scaling * (x @ a.T) @ b.T
    return total


def test_experts_leave_and_come_row_by_row(tiny_backbone):
    final, source = FinalFFN(tiny_backbone), MemoryExperts(tiny_backbone)
    residual = torch.randn(2, 1, 32)
    plain = final.hidden(residual)
    active = ActiveExperts(final, source, rows=2, k=2)
    active.swap([0, 1], [["p0", "p1"], ["p2"]])
    assert active.swap([0], [["p1", "p0"]]) == []  # the same set in another order
    assert active.swap([0], [[]]) == [0]
    with active.attached():
        mixed = final.hidden(residual)
    torch.testing.assert_close(mixed[0], plain[0])
    assert not torch.allclose(mixed[1], plain[1])
    active.swap([1], [[]])
    with active.attached():
        assert torch.equal(final.hidden(residual), plain)


@pytest.mark.parametrize("ids", [["p0", "p1", "p2"], ["p0", "p0"]])
def test_too_many_experts_or_one_twice_is_an_error(tiny_backbone, ids):
    active = ActiveExperts(FinalFFN(tiny_backbone), MemoryExperts(tiny_backbone), rows=1, k=2)
    with pytest.raises(ValueError, match=r"expected at most 2 different experts, got \('p0',"):
        active.swap([0], [ids])


def test_experts_of_a_gated_ffn_do_not_fit_a_plain_one(tiny_backbone):
    source = MemoryExperts(tiny_backbone)
    final = FinalFFN(tiny_backbone)
    del final.projections["gate"]
    with pytest.raises(ValueError, match=r"adapts the projection 'gate'.* has up, down; the bank"):
        ActiveExperts(final, source, rows=1, k=1).swap([0], [["p0"]])


@pytest.mark.parametrize("name", ["experts", "max_query_tokens"])
def test_bad_settings_are_errors(tiny_backbone, name):
    source = MemoryExperts(tiny_backbone)
    changed: dict = {name: 0}
    with pytest.raises(ValueError, match=rf"{name} must be positive, got 0; set {name}"):
        Routing(source, RandomRouter(source), NEVER, **changed)


def test_a_prompt_that_does_not_fit_is_an_error(tiny_backbone):
    with pytest.raises(ValueError, match="exceed the 512 positions"):
        make_decoder(tiny_backbone).stream([DecoderInput("a " * 500)], 100)


def test_ids_that_the_tokenizer_does_not_know_have_no_text_and_do_not_stop_routing():
    tokenizer = make_spiece_tokenizer()
    unknown = len(tokenizer) + 3
    the, of = (tokenizer.convert_tokens_to_ids(f"▁{word}") for word in ("the", "of"))
    colon, end = tokenizer.convert_tokens_to_ids(":"), tokenizer.eos_token_id
    table = {colon: unknown, unknown: the, the: of, of: end}
    model = make_table_model(table, len(tokenizer) + 8)
    backbone = Backbone(model, tokenizer, "table")
    source = MemoryExperts(backbone)
    for expert in source.experts.values():
        for tensor in expert.values():
            tensor.zero_()
    seen: list[str] = []

    class Router(OracleRouter):
        def route(self, requests, k):
            seen.extend(request.query for request in requests)
            return super().route(requests, k)

    decoder = DMoEDecoder(backbone, Routing(source, Router(source), ConstantTrigger(True), 1))
    row = DecoderInput("Answer:", "the task", given=("p0",))
    steps = list(decoder.stream([row], 8))
    assert decoder.text(steps) == greedy_decode(backbone, ["Answer:"], 8).texts[0] == "the of"
    assert seen == ["the task", "the task", "the task the", "the task the of"]
    prompt = torch.tensor([encode_prompt(tokenizer, "Answer:")])
    assert decoder.generate(prompt, max_new_tokens=8)[0].tolist()[-4:] == [unknown, the, of, end]
