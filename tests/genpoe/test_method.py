"""GenPoE among the other methods: every input with its own passages."""

from __future__ import annotations

import pytest
import torch

from genpoe.hypernet.mean import MeanSettings
from genpoe.method import GenPoEMethod
from genpoe.model import BackboneMismatchError, GenPoE
from qa.data.bios import generate
from qa.evaluation.evaluate import evaluate
from qa.method import BaseMethod, QuestionInput
from qa.passages.choose import make_passage_source
from tests.helpers.tiny import make_backbone


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
