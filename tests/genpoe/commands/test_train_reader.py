"""The hypernetwork that reads is trained, resumed and evaluated by the same commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbone.model import Backbone
from genpoe.commands.train_hypernet import build_module, train
from plumbing.cli import run
from qa.commands.evaluate import evaluate_run
from tests.helpers.killed import die_at
from tests.helpers.tiny import make_backbone

ROOT = Path(__file__).parents[3]
DATA = ["data.train_entities=12", "data.dev_entities=6", "data.distractor_entities=0"]
READER = [
    *("hypernet=reader", "hypernet.layer=1", "hypernet.read_layer=1", "hypernet.query_layers=[1]"),
    *("hypernet.hidden_width=16", "hypernet.key_width=8", "hypernet.common_rank=2"),
]
SMALL = [
    *("batching.passages_per_batch=4", "batching.questions_per_passage=3"),
    *("optim.lr=0.01", "trainer.accelerator=cpu", "logger=none", "~callbacks.progress_bar"),
    *("+trainer.enable_progress_bar=false", "callbacks.checkpoint.every_n_train_steps=2"),
]


def composed(name, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, [*DATA, *overrides])


def training(folder, *overrides):
    paths = (f"paths.output_dir={folder}", f"paths.cache_dir={folder.parent}/cache")
    return composed("train_hypernet", *SMALL, *READER, *paths, *overrides)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_backbone(max_position_embeddings=2048)


def weights(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([tensor.float().flatten() for tensor in state.values()])


@pytest.mark.slow
def test_it_is_resumed_bit_for_bit_and_its_passage_matters(backbone, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    given = ("cache_frozen=answers", "trainer.max_epochs=3")
    metrics = train(training(whole, *given), backbone)
    assert metrics["val/loss"] < metrics["val/loss_shuffled"]
    die_at(5, lambda: train(training(killed, *given), backbone), monkeypatch)
    checkpoint = killed / "checkpoints" / "last.ckpt"
    assert train(training(killed, *given, f"ckpt_path={checkpoint}"), backbone)["steps"] > 5
    assert torch.equal(weights(whole), weights(killed))

    def nll(passages):
        config = composed(
            *("evaluate", "method=genpoe", f"ckpt_path={checkpoint}", f"passages={passages}"),
            *("max_new_tokens=2", f"paths.output_dir={tmp_path}"),
        )
        return evaluate_run(config, backbone=backbone)["nll"]

    assert nll("gold") < nll("shuffled")


PAPER = ("hypernet.layer=1", "hypernet.rank=2", "hypernet.noise=0")


@pytest.mark.parametrize(
    ("hypernet", "kept"), [((*READER, "hypernet.dropout=0"), "false"), (PAPER, "true")]
)
def test_states_at_answers_teach_the_same(backbone, tmp_path, hypernet, kept):
    losses = []
    for cache_frozen in ("answers", kept):
        paths = (f"paths.output_dir={tmp_path}", f"paths.cache_dir={tmp_path}/cache")
        given = (*SMALL, *paths, *hypernet, f"cache_frozen={cache_frozen}", "~callbacks.checkpoint")
        losses.append(train(composed("train_hypernet", *given), backbone)["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cache_frozen=true", *READER], "also looks at earlier states, which cache_frozen=true"),
        (["cache_frozen=some"], "cache_frozen must be true, false or answers, got 'some'; set"),
        (["cache_frozen=answers", "hypernet.layer=0"], "beside the last FFN, layer 1, got layer 0"),
        (["other_passages=-1"], "other_passages must be a whole number of at least 0, got -1; set"),
        (["wrong_passages=1"], "wrong_passages must be at least 0 and less than 1, got 1; set"),
        ([*READER, "hypernet.layer=0"], "got 0; set hypernet.layer"),
        ([*READER, "hypernet.dropout=2"], "less than 1, got 2; set hypernet.dropout"),
    ],
)
def test_a_wrong_setting_is_named_by_its_key(backbone, capsys, overrides, message):
    config = composed("train_hypernet", *SMALL, "hypernet.layer=1", *overrides)
    with pytest.raises(SystemExit):
        run(lambda given: build_module(given, backbone), config)
    assert message in capsys.readouterr().err
