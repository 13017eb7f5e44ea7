"""The hypernetwork that reads: its formula, and what must change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from backbone.decoding import greedy_decode, score_answers
from backbone.model import UnsupportedBackboneError
from genpoe.experts import Around, Looked, Site
from genpoe.hypernet.reader import ReaderSettings
from genpoe.hypernet.reader_experts import ReaderCode
from genpoe.model import GenPoE
from plumbing.mounts import SettingValueError
from plumbing.storage.tensors import read_tensors, write_tensors
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import PASSAGES, make_reader

ONE, TWO, THREE = PASSAGES
PROMPTS = [
    "Question: Where was Tova Blick born?\nAnswer:",
    "The sea.\n\nQuestion: a\nAnswer:",
    "b c",
]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("llama", {"tie_word_embeddings": True}),
    "untied": ("llama", {"tie_word_embeddings": False}),
    "a norm behind the FFN too": ("gemma2", {}),
    "no norm before the FFN": ("olmo2", {}),
    "biases": ("qwen2", {}),
    "multipliers": ("granite", {"residual_multiplier": 0.3, "logits_scaling": 4.0}),
}


@pytest.fixture(params=FAMILIES)
def backbone(request, tiny_tokenizer):
    family, settings = FAMILIES[request.param]
    return make_backbone(family, tokenizer=tiny_tokenizer, **settings)


@pytest.fixture
def genpoe(tiny_backbone):
    return make_reader(tiny_backbone)


def ids_of(backbone, text):
    return torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]])


def logits(backbone, ids):
    with torch.inference_mode():
        return backbone.model(ids).logits


def unit(vector):
    return vector / vector.norm()


def naive_added(genpoe, passages, relevance, ids, u, stream, ffn_output, earlier, question):
    """What is added at the last position, written out with loops over the words."""
    reader, backbone = genpoe.hypernet, genpoe.backbone
    match, writer = reader.match, reader.writer
    embedding, head = backbone.embedding.weight, backbone.head.weight

    def standard(x, mean, scale):
        return (x / x.pow(2).mean().sqrt() - mean) * scale

    def embedded(t):
        return unit(embedding[t] - match.mean)

    def word(t):
        return unit(match.projection.T @ embedded(t))

    def weight(t):
        return match.idf[t] * torch.exp(match.importance @ embedded(t))

    D = backbone.d_model
    parts = (u, earlier)
    z = torch.cat(
        [
            standard(x, reader.query_mean[i * D : (i + 1) * D], reader.query_scale[i * D :][:D])
            for i, x in enumerate(parts)
        ]
    )
    inner = functional.gelu(reader.query1(z))
    q = reader.query2(inner)
    about = sum(weight(t) * word(t) for t in question) * match.strength[0]
    follows = range(reader.settings.follow_words)
    written = [word(ids[-1 - m]) * match.strength[1 + m] for m in follows]
    scores, words = [reader.null(inner)[0]], []
    for passage, r in zip(passages, relevance, strict=True):
        tokens = backbone.tokenizer(f"{passage.title}\n{passage.text}".strip())["input_ids"]
        states = backbone.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[1]
        x = [standard(h, reader.state_mean, reader.state_scale) for h in states[0]]
        sentences, number = [], 0
        for t in tokens:
            sentences.append(number)
            text = backbone.tokenizer.decode([t])
            number += "\n" in text or text.strip()[-1:] in (".", "!", "?")
        for j, token in enumerate(tokens):
            seen = torch.cat([x[j], x[j - 1] if j else torch.zeros(D)])
            key = reader.key2(reader.key_norm(reader.key1(seen)))
            near = torch.zeros(len(q))
            for i, other in enumerate(tokens):
                left, right = match.log_reach.exp()
                kernel = match.near[3] * (sentences[i] == sentences[j])
                if i == j:
                    kernel += match.near[0]
                elif i < j:
                    kernel += match.near[1] * torch.exp(-(j - i) / left)
                else:
                    kernel += match.near[2] * torch.exp(-(i - j) / right)
                near = near + kernel * weight(other) * word(other)
            score = q @ key / len(q) ** 0.5 + about @ near
            for m in follows:
                if j > m:
                    score = score + written[m] @ word(tokens[j - 1 - m])
            scores.append(score + torch.tensor(r).log())
            words.append(token)
    a = torch.stack(scores).softmax(0)[1:]
    read = sum(w * writer.scale[t] * (head[t] - writer.mean) for w, t in zip(a, words, strict=True))
    written = read @ writer.inverse @ (torch.eye(D) + writer.turn)
    written = written * (stream + ffn_output).pow(2).mean().sqrt()
    common = reader.common
    both = torch.relu(u @ common.up1 @ common.up2) @ common.down1 @ common.down2
    return torch.relu(reader.gate(z[:D])) * written + both * common.output_scale


@pytest.mark.parametrize(
    ("tied", "settings"),
    [
        (True, {}),
        (False, {}),
        (True, {"follow_words": 3}),
    ],
)
def test_equals_the_formula(tiny_tokenizer, tied, settings):
    backbone = make_backbone(tokenizer=tiny_tokenizer, tie_word_embeddings=tied)
    genpoe = make_reader(backbone, **settings)
    ids = ids_of(backbone, PROMPTS[0])
    question = ids_of(backbone, " Where was Tova Blick born?")[0].tolist()
    # the newline before "Answer:" has no weight, because it is no word
    seen: dict[str, torch.Tensor] = {}
    layer = backbone.layers[1]
    layer.post_attention_layernorm.register_forward_pre_hook(lambda m, a: seen.update(r=a[0][0]))
    backbone.ffn(1).register_forward_hook(lambda m, a, o: seen.update(u=a[0][0], f=o[0]))
    earlier = backbone.model(ids, output_hidden_states=True).hidden_states[1][0]
    u, r, f = (seen[name][-1] for name in ("u", "r", "f"))
    weights = [0.7, 0.3]
    with torch.no_grad():
        added = naive_added(genpoe, [ONE, THREE], weights, ids[0], u, r, f, earlier[-1], question)
        expected = backbone.logits(backbone.final_norm((r + f + added)[None]))[0]
    with genpoe.injected([ONE, THREE], weights):
        actual = logits(backbone, ids)[0, -1]
    assert added.norm() > 0.1 * f.norm()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_removal_leaves_the_backbone_bit_identical(backbone):
    genpoe = make_reader(backbone)
    ids = ids_of(backbone, PROMPTS[0])
    before = logits(backbone, ids)
    with genpoe.injected([ONE, TWO]):
        assert not torch.equal(logits(backbone, ids), before)
    assert torch.equal(logits(backbone, ids), before)


def test_a_gate_of_zero_is_the_backbone_bit_by_bit(backbone):
    genpoe = make_reader(backbone)
    with torch.no_grad():
        reader: Any = genpoe.hypernet
        reader.gate.weight.zero_()
        reader.gate.bias.zero_()
        reader.common.down1.zero_()
    ids = ids_of(backbone, PROMPTS[0])
    before = logits(backbone, ids)
    with genpoe.injected([ONE, TWO]):
        assert torch.equal(logits(backbone, ids), before)


def test_decoding_with_a_cache_equals_decoding_without(backbone):
    genpoe = make_reader(backbone)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2, "output_logits": True}
    settings |= {"return_dict_in_generate": True}
    ids = ids_of(backbone, PROMPTS[0])
    with genpoe.injected([ONE, THREE]):
        cached = backbone.model.generate(ids, use_cache=True, **settings)
        anew = backbone.model.generate(ids, use_cache=False, **settings)
    assert torch.equal(cached.sequences, anew.sequences)
    for one, other in zip(cached.logits, anew.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_row_of_a_batch_has_its_own_passages_and_padding_changes_nothing(tiny_backbone):
    """Permuting a batch permutes its outputs, and a row alone is answered as among others."""
    genpoe = make_reader(tiny_backbone)
    passages = [[ONE], [THREE, TWO], []]
    answers = ["Lisbon", "a brown fox", "the sea"]

    def answered(order):
        with genpoe.injected([passages[i] for i in order]):
            decoded = greedy_decode(tiny_backbone, [PROMPTS[i] for i in order], 6)
            nll = score_answers(tiny_backbone, decoded, [answers[i] for i in order])
        return decoded.texts, nll

    texts, nll = answered([0, 1, 2])
    permuted, permuted_nll = answered([2, 0, 1])
    assert permuted == [texts[i] for i in (2, 0, 1)]
    torch.testing.assert_close(permuted_nll, nll[[2, 0, 1]], rtol=1e-4, atol=1e-4)
    for i in range(3):
        alone, alone_nll = answered([i])
        assert alone == [texts[i]]
        torch.testing.assert_close(alone_nll[0], nll[i], rtol=1e-4, atol=1e-4)
    plain = greedy_decode(tiny_backbone, PROMPTS, 6)
    assert texts[2] == plain.texts[2]  # it has no passages
    torch.testing.assert_close(score_answers(tiny_backbone, plain, answers)[2], nll[2])
    assert abs(score_answers(tiny_backbone, plain, answers) - nll)[:2].min() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"follow_words": 3}])
def test_a_longer_passage_in_the_batch_changes_nothing(tiny_backbone, settings):
    genpoe = make_reader(tiny_backbone, **settings)
    ids = ids_of(genpoe.backbone, PROMPTS[0])
    with genpoe.injected([TWO]):
        alone = logits(genpoe.backbone, ids)
    with genpoe.injected([[TWO], [ONE]]):
        together = logits(genpoe.backbone, ids.repeat(2, 1))
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_one_passage_is_the_same_in_both_mixings_and_two_are_not(tiny_backbone):
    ids = ids_of(tiny_backbone, PROMPTS[0])
    together, apart = (make_reader(tiny_backbone, mixing=name) for name in ("softmax", "experts"))

    def with_passages(genpoe, *passages):
        with genpoe.injected(passages):
            return logits(tiny_backbone, ids)

    one = with_passages(together, ONE)
    torch.testing.assert_close(with_passages(apart, ONE), one)
    for genpoe in (together, apart):  # the same passage twice is that passage
        torch.testing.assert_close(with_passages(genpoe, ONE, ONE), one, rtol=1e-4, atol=1e-4)
    different = with_passages(together, ONE, THREE) - with_passages(apart, ONE, THREE)
    assert different.abs().max() > 1e-3


@pytest.mark.parametrize("mixing", ["softmax", "experts"])
def test_a_passage_without_relevance_changes_nothing(tiny_backbone, mixing):
    genpoe = make_reader(tiny_backbone, mixing=mixing)
    ids = ids_of(tiny_backbone, PROMPTS[0])
    with genpoe.injected([ONE]):
        alone = logits(tiny_backbone, ids)
    with genpoe.injected([THREE, ONE], [0.0, 1.0]):
        torch.testing.assert_close(logits(tiny_backbone, ids), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixing", ["softmax", "experts"])
def test_the_gradient_is_that_of_finite_differences(tiny_tokenizer, mixing):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    genpoe = make_reader(backbone, mixing=mixing, follow_words=2)
    reader: Any = genpoe.hypernet.double()  # the backbone's own norms compute in float32
    ids, tokens = ids_of(backbone, PROMPTS[0]), genpoe.tokens([ONE, THREE])
    targets = torch.full_like(ids, -100)
    targets[0, -2:] = torch.tensor([int(tokens.input_ids_PS[0, 2]), 7])
    torch.manual_seed(0)
    hidden, output, stream, earlier, direction = torch.randn(5, *ids.shape, 32).double()
    site = Site(hidden, output, stream, Around(ids, torch.ones_like(ids), (earlier,)))

    def loss():
        experts = reader(tokens).arranged(torch.tensor([[0, 1]]))
        mixed = experts.mix(site, torch.tensor([[0.6, 0.4]]).double())
        extra = reader.extra_loss(experts, mixed.looked, None, targets)
        return extra.sum() + (mixed.added_NTD * direction).sum()

    loss().backward()
    for name, parameter in reader.named_parameters():
        way = torch.randn_like(parameter)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter += step * way
                values.append(loss())
                parameter -= step * way
        measured = (values[0] - values[1]) / 2e-6
        expected = (parameter.grad * way).sum()
        assert measured.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-7), name


def test_experts_in_steps_do_the_same_and_follow_changed_weights(backbone):
    genpoe = make_reader(backbone, follow_words=2)
    reader: Any = genpoe.hypernet
    ids = ids_of(backbone, PROMPTS[0])
    relevance = torch.tensor([[0.7, 0.3]])
    experts = genpoe.generate_experts([ONE, THREE]).arranged(torch.tensor([[0, 1]]))
    ready = reader.ready(experts)
    looked: list[Any] = []

    def answered(some):
        with genpoe.expert_layer.injected(some, relevance):
            found = logits(backbone, ids)
            looked.append(genpoe.expert_layer.looked)
        return found

    for _ in range(2):
        with torch.inference_mode():
            plain = logits(backbone, ids)
        expected = answered(experts)
        torch.testing.assert_close(answered(ready), expected, rtol=1e-4, atol=1e-4)
        assert (expected - plain).abs().max() > 1e-2
        for part in ("units_NTKS", "null_NT"):
            one, other = (getattr(each, part) for each in looked[-2:])
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        total = looked[-1].units_NTKS.sum((-2, -1)) + looked[-1].null_NT
        torch.testing.assert_close(total, torch.ones_like(total))
        assert reader.ready(experts).reader._folded is reader.folded[1]
        with torch.no_grad():
            for parameter in reader.parameters():
                parameter.mul_(1.1)
        ready = reader.ready(experts)


def test_saving_and_loading_gives_the_same_logits(genpoe, tmp_path):
    ids = ids_of(genpoe.backbone, PROMPTS[0])
    genpoe.save(tmp_path / "last.ckpt")
    again = GenPoE.from_checkpoint(tmp_path / "last.ckpt", genpoe.backbone)
    assert again.hypernet.settings == genpoe.hypernet.settings
    with genpoe.injected([ONE, TWO]):
        before = logits(genpoe.backbone, ids)
    with again.injected([ONE, TWO]):
        assert torch.equal(logits(genpoe.backbone, ids), before)


def test_a_code_that_was_stored_gives_the_same_experts(genpoe, tmp_path):
    reader = genpoe.hypernet
    encoded = reader.encode(genpoe.tokens([ONE, TWO]))
    code = reader.code(encoded)
    stored = {"keys": code.keys_PSU, "ids": code.ids_PS.int(), "mask": code.mask_PS.bool()}
    write_tensors(tmp_path / "code", stored)
    again = read_tensors(tmp_path / "code")
    read = ReaderCode(again["keys"], again["ids"].long(), again["mask"].long())
    one, other = reader.experts(encoded), reader.experts(read)
    for name in ("keys", "values", "ids", "mask"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_word_gains_what_the_gate_says(backbone):
    """A weight of 1 on a word adds one gate's worth to its logit, and less to any other."""
    reader: Any = make_reader(backbone).hypernet
    writer = reader.writer
    with torch.no_grad():
        writer.turn.zero_()
    D = backbone.d_model
    torch.manual_seed(0)
    stream, output = 3 * torch.randn(1, D), torch.randn(1, D)
    final = writer._final

    def scores(weight, word):
        with torch.no_grad():
            added = writer(weight * writer.values(torch.tensor([word])), stream, output)
            changed = output + added
            changed = changed if final.post is None else final.post(changed)
            return backbone.logits(backbone.final_norm(stream + final.multiplier * changed))[0]

    step, gains = 1e-2, []
    for word in (40, 90, 200):
        gain = (scores(step, word) - scores(-step, word)) / (2 * step)
        assert gain.argmax() == word
        gains.append(gain[word].item())
    # Divided by the norms, the direction also changes the stream's size; hence not exactly one.
    assert gains == pytest.approx([1] * 3, abs=0.35)


def test_the_copy_loss_is_small_where_the_attention_is_right(genpoe):
    reader = genpoe.hypernet
    experts = reader(genpoe.tokens([TWO]))
    word, S = int(experts.ids[0, 0, 3]), experts.ids.shape[-1]
    targets = torch.tensor([[-100, word, 5]])  # 5 does not stand in the passage
    assert not (experts.ids == 5).any()
    right = (experts.ids[0, 0] == word).float()
    units = torch.stack([torch.zeros(S), right / right.sum() * 0.5, torch.zeros(S)])[None, :, None]
    null = torch.tensor([[1.0, 0.5, 1.0]])
    loss = reader.extra_loss(experts, Looked(units, null), torch.tensor([0]), targets)
    assert loss.tolist() == pytest.approx([0.5 * torch.tensor(2.0).log().item() / 2])
    only_null = torch.tensor([[1.0, 0.25, 1.0]])
    wrong = torch.tensor([True])  # the word stands in the passage, but the passage is another's
    loss = reader.extra_loss(experts, Looked(units, only_null), torch.tensor([0]), targets, wrong)
    assert loss.tolist() == pytest.approx([0.5 * torch.tensor(4.0).log().item() / 2])
    reader.settings = replace(reader.settings, copy_loss=0.0)
    assert reader.extra_loss(experts, Looked(units, null), torch.tensor([0]), targets) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 0}, "layer must be the last one of tiny-llama-0, 1, got 0; set layer"),
        ({"read_layer": 0}, r"read_layer must be in 1\.\.1 for tiny-llama-0, got 0"),
        ({"query_layers": [1, 2]}, r"query_layers must be in 1\.\.1 for tiny-llama-0, got 2"),
        ({"mixing": "sum"}, "mixing must be one of softmax, experts, got 'sum'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        ({"copy_loss": -1.0}, "copy_loss must not be negative, got -1.0"),
        ({"key_width": 0}, "key_width must be positive, got 0"),
        ({"follow_words": 0}, "follow_words must be positive, got 0"),
    ],
)
def test_a_wrong_setting_is_named(tiny_backbone, settings, message):
    with pytest.raises(SettingValueError, match=message):
        make_reader(tiny_backbone, **settings)


def test_a_head_without_rows_for_words_is_an_error(tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer, tie_word_embeddings=False)
    backbone.head.weight = torch.nn.Parameter(torch.zeros(7, 7, dtype=torch.uint8), False)
    with pytest.raises(UnsupportedBackboneError, match=r"expected a head .* got \[7, 7\] of torch"):
        ReaderSettings(layer=1, read_layer=1).build(backbone)


def test_a_last_layer_of_another_form_is_an_error(tiny_tokenizer):
    backbone = make_backbone("phi", tokenizer=tiny_tokenizer)
    with pytest.raises(UnsupportedBackboneError, match="expected a final layer"):
        ReaderSettings(layer=1, read_layer=1).build(backbone)


def test_embeddings_instead_of_tokens_are_an_error(genpoe):
    with genpoe.injected([ONE]), pytest.raises(ValueError, match="give input_ids instead"):
        genpoe.backbone.model(inputs_embeds=torch.randn(1, 3, 32))


def test_what_was_read_before_the_injection_is_asked_for(genpoe):
    ids = ids_of(genpoe.backbone, PROMPTS[0])
    cache = genpoe.backbone.model(ids[:, :-1], use_cache=True).past_key_values
    with genpoe.injected([ONE]), pytest.raises(ValueError, match="before the prompt is read"):
        genpoe.backbone.model(ids[:, -1:], past_key_values=cache)


def test_experts_that_are_not_told_what_they_look_at_are_an_error(genpoe):
    experts = genpoe.generate_experts([ONE])
    hidden = torch.randn(1, 2, 32)
    with pytest.raises(ValueError, match="inject them by an ExpertLayer"):
        experts.mix(Site(hidden, hidden), torch.ones(1, 1))


def test_around_may_be_given(genpoe):
    """A training knows what the experts look at without running the layers below."""
    ids = ids_of(genpoe.backbone, PROMPTS[0])
    experts = genpoe.generate_experts([ONE])
    with genpoe.expert_layer.injected(experts, torch.ones(1, 1)):
        noted = logits(genpoe.backbone, ids)
    earlier = genpoe.backbone.model(ids, output_hidden_states=True).hidden_states[1]
    around = Around(ids, torch.ones_like(ids), (earlier,))
    with genpoe.expert_layer.injected(experts, torch.ones(1, 1), around=around):
        torch.testing.assert_close(logits(genpoe.backbone, ids), noted)


@pytest.mark.parametrize("lexical", [True, False])
@pytest.mark.parametrize("follow", [True, False])
def test_every_parameter_that_learns_has_a_gradient(tiny_backbone, lexical, follow):
    """With parts left out, too: data-parallel training refuses parameters without one."""
    genpoe = make_reader(tiny_backbone, lexical=lexical, follow=follow, follow_words=2)
    experts = genpoe.hypernet(genpoe.tokens([ONE]))
    with genpoe.expert_layer.injected(experts, torch.ones(1, 1)):
        genpoe.backbone.model(ids_of(tiny_backbone, PROMPTS[0])).logits.var().backward()
    for name, parameter in genpoe.hypernet.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
