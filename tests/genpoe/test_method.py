"""GenPoE among the other methods: every input with its own passages."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from backbone.decoding import left_padded
from backbone.read_prompts import ReadPrompts
from genpoe.experts import mix_experts
from genpoe.hypernet.hypernet import Hypernet
from genpoe.hypernet.mean import MeanHypernet, MeanSettings
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.method import GenPoEMethod
from genpoe.model import BackboneMismatchError, GenPoE
from qa.data.bios import generate
from qa.evaluation.evaluate import evaluate
from qa.method import BaseMethod, QuestionInput, RAGMethod
from qa.passages.choose import make_passage_source
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import make_reader


@pytest.fixture(scope="module")
def dataset():
    return generate(seed=0, train_entities=0, dev_entities=4, distractor_entities=0)


@pytest.fixture(scope="module")
def backbone():
    return make_backbone(max_position_embeddings=2048)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, backbone, dataset):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hypernet = MeanSettings(layer=1, rank=4, hidden_width=64).build(backbone)
        genpoe = GenPoE(backbone, hypernet)
        passages = list(dataset.passages.values())
        with torch.inference_mode():
            pooled = hypernet.encode(genpoe.tokens(passages)).clone()
        hypernet.fit(pooled)
        torch.nn.init.normal_(hypernet.linear2.weight, std=0.5)  # as if trained: the start is zero
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    genpoe.save(path)
    return str(path)


def inputs_of(dataset, kind="gold", k=1):
    questions = dataset.split("dev")[:6]
    selections = make_passage_source(kind, dataset, k=k).select(questions)
    return [QuestionInput(*pair) for pair in zip(questions, selections, strict=True)]


@pytest.mark.parametrize("rag", [False, True])
def test_a_batch_equals_its_rows_and_leaves_no_trace(dataset, backbone, checkpoint, rag):
    method = GenPoEMethod(backbone, checkpoint, rag, max_new_tokens=4)
    inputs = inputs_of(dataset)
    before = BaseMethod(backbone, max_new_tokens=4).answer(inputs)
    together = method.answer(inputs)
    for input, prediction in zip(inputs, together, strict=True):
        (alone,) = method.answer([input])
        assert alone.text == prediction.text
        assert alone.nll == pytest.approx(prediction.nll, rel=1e-3)
    assert BaseMethod(backbone, max_new_tokens=4).answer(inputs) == before
    assert [p.nll for p in together] != [p.nll for p in before]


def test_shuffled_passages_change_every_score(dataset, backbone, checkpoint):
    method = GenPoEMethod(backbone, checkpoint, max_new_tokens=2)
    own, other = (method.answer(inputs_of(dataset, kind)) for kind in ("gold", "shuffled"))
    assert all(abs(a.nll - b.nll) > 1e-3 for a, b in zip(own, other, strict=True))


def test_evaluation_writes_what_every_method_writes(dataset, backbone, checkpoint, tmp_path):
    method = GenPoEMethod(backbone, checkpoint, max_new_tokens=2)
    source = make_passage_source("gold", dataset, 0)
    metrics = evaluate(method, dataset.split("dev"), source, tmp_path, limit=4)
    assert metrics["n"] == 4
    assert {"em", "f1", "nll", "nll_low", "nll_high", "seconds_per_question"} <= metrics.keys()
    assert (tmp_path / "predictions.jsonl").read_text().count("\n") == 4


def test_checkpoints_are_checked(backbone, checkpoint, tiny_tokenizer):
    with pytest.raises(ValueError, match=r"method=genpoe needs .* give ckpt_path=…"):
        GenPoEMethod(backbone)
    with pytest.raises(BackboneMismatchError):
        GenPoEMethod(make_backbone(seed=5, tokenizer=tiny_tokenizer), checkpoint)


def changes(backbone, checkpoint, inputs, **settings):
    """What a method adds to the output of the expert layer's FFN, for inputs held out."""
    method = GenPoEMethod(backbone, checkpoint, **settings)
    ffn = backbone.ffn(1)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(len(inputs), 5, backbone.d_model, generator=generator)
    plain = ffn(hidden)
    with method.injected(inputs):
        moved = ffn(hidden)
    assert torch.equal(ffn(hidden), plain)
    return (moved - plain).detach()


@pytest.mark.parametrize("k", [1, 3])
def test_noise_moves_the_output_as_far_as_the_own_experts(dataset, backbone, checkpoint, k):
    inputs = [*inputs_of(dataset, k=k), QuestionInput(dataset.split("dev")[0])]
    own, noise, other = (
        changes(backbone, checkpoint, inputs, experts=experts, seed=seed)
        for experts, seed in (("own", 0), ("noise", 0), ("noise", 1))
    )
    torch.testing.assert_close(noise.norm(dim=-1), own.norm(dim=-1), rtol=1e-3, atol=1e-4)
    assert own[:-1].norm(dim=-1).min() > 0.1
    assert not noise[-1].any()  # a question without passages has no experts
    assert torch.cosine_similarity(own, noise, dim=-1).abs().mean() < 0.3
    assert not torch.allclose(noise, other)


def test_the_common_expert_is_the_same_for_all_passages(dataset, backbone, checkpoint):
    inputs = inputs_of(dataset)
    common = changes(backbone, checkpoint, inputs, experts="common")
    assert torch.equal(changes(backbone, checkpoint, inputs[::-1], experts="common")[0], common[0])
    hypernet = GenPoE.from_checkpoint(checkpoint, backbone).hypernet
    assert isinstance(hypernet, MeanHypernet)
    with torch.no_grad():  # a hypernetwork without a part that depends on the passage
        hypernet.linear2.weight.zero_()
        experts = hypernet.experts(torch.randn(1, backbone.d_model))
    for mine, expected in zip(hypernet.common_expert().factors, experts.factors, strict=True):
        torch.testing.assert_close(mine, expected)
    own = changes(backbone, checkpoint, inputs)
    assert not torch.allclose(own, common, atol=1e-3)


@pytest.fixture(scope="module")
def reading(tmp_path_factory, backbone):
    """A checkpoint of a hypernetwork that reads."""
    path = tmp_path_factory.mktemp("reading") / "last.ckpt"
    make_reader(backbone).save(path)
    return str(path)


def added_while_reading(method, inputs):
    """What a method adds to the FFN's output at the last token of each prompt."""
    backbone, seen = method.backbone, []
    ffn = backbone.ffn(1)
    ids, mask = left_padded(backbone, [method.prompt(input) for input in inputs], 1)

    def note(_, __, output):
        seen.append(output.detach())

    with torch.no_grad(), ExitStack() as stack:  # hooks run in the order of their registration
        stack.callback(ffn.register_forward_hook(note).remove)
        stack.enter_context(method.injected(inputs))
        stack.callback(ffn.register_forward_hook(note).remove)
        backbone.hidden_states(ids, mask)
    return (seen[1] - seen[0])[:, -1]


def test_the_controls_hold_for_a_hypernetwork_that_reads(dataset, backbone, reading):
    inputs = inputs_of(dataset, k=2)
    own, common, noise = (
        added_while_reading(GenPoEMethod(backbone, reading, experts=experts), inputs)
        for experts in ("own", "common", "noise")
    )
    torch.testing.assert_close(noise.norm(dim=-1), own.norm(dim=-1), rtol=1e-3, atol=1e-4)
    assert torch.cosine_similarity(own, noise, dim=-1).abs().mean() < 0.3
    assert own.norm(dim=-1).min() > 0.01
    # Without words to write, the common expert is all that is left.
    genpoe = GenPoE.from_checkpoint(reading, backbone)
    assert isinstance(genpoe.hypernet, ReaderHypernet)
    hidden = torch.randn(2, 3, backbone.d_model)
    one = torch.ones(1, 1)
    torch.testing.assert_close(
        mix_experts(hidden, genpoe.hypernet.common_expert(), one), genpoe.hypernet.common(hidden)
    )
    assert not torch.allclose(own, common, atol=1e-3)


@pytest.mark.parametrize("rag", [False, True])
def test_prompts_that_another_method_has_read_give_the_same_answers(
    dataset, backbone, checkpoint, reading, rag
):
    inputs = inputs_of(dataset)
    first = RAGMethod(backbone, True, 4) if rag else BaseMethod(backbone, max_new_tokens=4)
    methods = [first, *(GenPoEMethod(backbone, path, rag, 4) for path in (checkpoint, reading))]
    expected = [method.answer(inputs) for method in methods]
    read = []
    note = backbone.layers[-1].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    shared = ReadPrompts()
    for method, alone in zip(methods, expected, strict=True):
        assert not isinstance(method, GenPoEMethod) or method.keeps_prompts
        method.read_prompts = shared
        read.clear()
        for mine, other in zip(method.answer(inputs), alone, strict=True):
            assert mine.text == other.text
            assert mine.nll == pytest.approx(other.nll, rel=1e-4)
        assert (max(states.shape[1] for states in read) > 20) == (method is first)
    note.remove()


def test_without_experts_it_is_rag(dataset, backbone, checkpoint):
    inputs = inputs_of(dataset)
    none = GenPoEMethod(backbone, checkpoint, True, 3, experts="none").answer(inputs)
    assert none == RAGMethod(backbone, True, 3).answer(inputs)


def test_experts_that_there_are_not_are_an_error(backbone, checkpoint, monkeypatch):
    with pytest.raises(ValueError, match="experts must be one of own, common, noise, none, got"):
        GenPoEMethod(backbone, checkpoint, experts="random")
    monkeypatch.setattr(MeanHypernet, "common_expert", Hypernet.common_expert)
    with pytest.raises(ValueError, match="MeanHypernet has no expert that is common to all"):
        GenPoEMethod(backbone, checkpoint, experts="common")


def test_the_prompt_and_the_expert_may_have_different_passages(dataset, backbone, checkpoint):
    own, other = inputs_of(dataset), inputs_of(dataset, "shuffled")
    crossed = [replace(a, prompt_selection=b.selection) for a, b in zip(own, other, strict=True)]
    method = GenPoEMethod(backbone, checkpoint, True, 2)
    for a, b, both in zip(own, other, crossed, strict=True):
        assert method.prompt(both) == method.prompt(b) != method.prompt(a)
    with method.injected(own):
        expected = RAGMethod(backbone, True, 2).answer(other)
    assert method.answer(crossed) == expected
