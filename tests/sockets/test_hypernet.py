"""The socket of a hypernetwork: a class and a YAML file, trained, resumed and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genpoe.commands.train_hypernet import train
from genpoe.model import GenPoE
from plumbing.cli import run
from plumbing.training.checkpoint import CheckpointError
from qa.commands.evaluate import evaluate_run
from tests.helpers.tiny import make_backbone

SMALL = (
    *("data.train_entities=8", "data.dev_entities=4", "data.distractor_entities=0"),
    *("batching.passages_per_batch=4", "optim.lr=0.01", "logger=none", "trainer.accelerator=cpu"),
    *("~callbacks.progress_bar", "+trainer.enable_progress_bar=false", "trainer.max_epochs=1"),
    *("hypernet=shared", "hypernet.layer=1", "hypernet.rank=2"),
)


def test_a_hypernetwork_is_trained_resumed_and_evaluated(
    added: Callable[..., Any], tmp_path: Path
) -> None:
    composed = added("shared", "hypernet/shared")
    backbone = make_backbone(max_position_embeddings=2048)
    first = train(composed("train_hypernet", *SMALL), backbone)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["hypernet"] == {
        "class": "shared.SharedSettings",
        "layer": 1,
        "rank": 2,
    }
    assert saved["state_dict"]["hypernet.down1"].abs().max() > 0  # it started as the zero function
    resumed = composed("train_hypernet", *SMALL, f"ckpt_path={checkpoint}", "trainer.max_epochs=2")
    assert train(resumed, backbone)["steps"] == 2 * first["steps"]
    assert type(GenPoE.from_checkpoint(checkpoint, backbone).hypernet).__name__ == "SharedHypernet"

    def nll(passages: str) -> float:
        config = composed(
            *("evaluate", "method=genpoe", f"ckpt_path={checkpoint}", f"passages={passages}"),
            *SMALL[:3],
            *("limit=6", "max_new_tokens=2"),
        )
        return evaluate_run(config, backbone=backbone)["nll"]

    assert nll("gold") != nll("shuffled")


def test_another_structure_is_refused_and_a_setting_is_named_by_its_key(
    added: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = added("shared", "hypernet/shared")
    backbone = make_backbone(max_position_embeddings=2048)
    train(composed("train_hypernet", *SMALL), backbone)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    other = composed("train_hypernet", *SMALL, "hypernet.rank=3", f"ckpt_path={checkpoint}")
    with pytest.raises(CheckpointError, match="another hypernetwork: rank was 2, is 3"):
        train(other, backbone)
    for given, message in (
        ("hypernet.rank=0", "rank must be positive, got 0; set hypernet.rank"),
        ("hypernet.layer=7", "got 7; set hypernet.layer"),
    ):
        with pytest.raises(SystemExit):
            run(train, composed("train_hypernet", *SMALL, given), backbone)
        assert message in capsys.readouterr().err
