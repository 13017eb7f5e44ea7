"""What every training with Lightning does before, around and after it."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from plumbing.training.resume import RandomState
from plumbing.training.setup import check_ckpt_path, fit, make_trainer, seed, write_metrics


class Line(LightningModule):
    """One weight that is pulled to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(4.0))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.weight.square()
        self.log("train/loss", loss)
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.zeros(3, 1))  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def config_for(folder: Path, **more: Any) -> Any:
    trainer = {
        "_target_": "lightning.Trainer",
        "max_epochs": 1,
        "accelerator": "cpu",
        "default_root_dir": str(folder),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
    }
    return OmegaConf.create({"trainer": trainer, "logger": {}, **more})


@pytest.mark.parametrize("word", ["", "last", "best", "hpc"])
def test_words_of_lightning_are_no_checkpoint(word: str, tmp_path: Path) -> None:
    for check in (check_ckpt_path, lambda path: fit(make_trainer(config_for(tmp_path)), Line(),
                                                    ckpt_path=path)):  # fmt: skip
        with pytest.raises(CheckpointError, match=f"ckpt_path must be a file, got '{word}'"):
            check(word)


@pytest.mark.parametrize("path", [None, "last.ckpt", Path("last"), Path("x/best.ckpt")])
def test_files_are(path: str | Path | None) -> None:
    check_ckpt_path(path)


def test_the_seed_fixes_all_generators() -> None:
    def draw() -> tuple[float, float, float]:
        seed(3)
        # The global generator is what is tested.
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draw() == draw()


def test_the_trainer_is_that_of_the_configuration(tmp_path: Path) -> None:
    callbacks = {
        "state": {"_target_": "plumbing.training.resume.RandomState"},
        "rate": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"},
    }
    trainer = make_trainer(config_for(tmp_path, callbacks=callbacks), max_epochs=5)
    assert trainer.max_epochs == 5
    assert trainer.loggers == []
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    assert any(isinstance(callback, RandomState) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def test_training_is_measured_and_goes_on_from_a_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = make_trainer(config_for(tmp_path))
        metrics = fit(trainer, Line())
    # The weight is halved in every step: 4, 2, 1.
    assert metrics == {"train/loss": 1.0, "steps": 3}
    assert isinstance(metrics["train/loss"], float)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    more = make_trainer(config_for(tmp_path), max_epochs=2)
    assert fit(more, Line(), ckpt_path=tmp_path / "x.ckpt") == {"train/loss": 1 / 64, "steps": 6}
    with pytest.raises(CheckpointError, match="no such file"):
        fit(make_trainer(config_for(tmp_path)), Line(), ckpt_path=tmp_path / "nowhere.ckpt")


def test_metrics_are_written_by_the_first_process(tmp_path: Path) -> None:
    def trainer(first: bool) -> Trainer:
        found: Any = SimpleNamespace(is_global_zero=first)
        return found

    write_metrics(trainer(False), tmp_path, {"steps": 1})
    assert not (tmp_path / "metrics.json").exists()
    write_metrics(trainer(True), tmp_path, {"steps": 2})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"steps": 2}
