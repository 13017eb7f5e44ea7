"""suite=experts runs, compares equal experts, and says so when they are not."""

from __future__ import annotations

import builtins
from contextlib import nullcontext

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import experts as benchmark
from benchmarks.experts import PeftLoop, experts_suite
from qa.data.bios import generate
from tests.helpers.tiny import make_backbone


@pytest.fixture
def config(monkeypatch):
    def build(node, **settings):
        if "data" in node:
            return generate(
                train_entities=16, dev_entities=2, distractor_entities=0, train_questions=2
            )
        backbone = make_backbone(max_position_embeddings=2048)
        backbone.model.to(getattr(torch, settings["dtype"]))
        return backbone

    monkeypatch.setattr(benchmark, "instantiate", build)
    # In this process, where the doubles are.
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda *_, **__: nullcontext(builtins))
    return OmegaConf.create(
        {
            "rounds": 2,
            "backbone": {"name": "tiny"},
            "data": {"data": "bios"},
            "experts": {"passages": 4, "peer_passages": 1, "formats": ["qa"], "lr": 1e-2},
        }
    )


@pytest.mark.slow
def test_it_runs(config):
    result, lines = experts_suite(config)
    assert max(result["differences"].values()) < 1e-3
    assert result["answers, 10 epochs"]["median"] > 0
    assert [row["experts"] for row in result["growth"]] == [4, 8, 16]
    text = "\n".join(lines)
    assert "| all tokens, 1 epoch |" in text
    assert "times PEFT's speed" in text


def test_what_cannot_be_measured_is_said_before_anything_is(config, monkeypatch):
    monkeypatch.setattr(benchmark, "PeftLoop", None)
    config.experts.passages = 5
    with pytest.raises(ValueError, match=r"expected 20 training passages .* got 16; lower exper"):
        experts_suite(config)
    config.rounds = 0
    with pytest.raises(ValueError, match="rounds must be positive, got 0"):
        experts_suite(config)


def test_what_differs_is_not_compared(config, monkeypatch):
    train = PeftLoop.train

    def other(self, *args, **kwargs):
        return {name: tensor * 1.01 for name, tensor in train(self, *args, **kwargs).items()}

    monkeypatch.setattr(PeftLoop, "train", other)
    with pytest.raises(ValueError, match="ours and PEFT's experts differ"):
        experts_suite(config)
