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
from hydra.errors import InstantiationException
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from plumbing.mounts import SettingValueError
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


def configured(folder: Path, *dots: str) -> Any:
    """The configuration of a test with settings as they are typed."""
    callbacks = {"bar": {"_target_": "lightning.pytorch.callbacks.TQDMProgressBar"}}
    given = OmegaConf.from_dotlist(list(dots))
    own = config_for(folder, callbacks=callbacks)
    own.trainer.enable_progress_bar = True
    return OmegaConf.merge(own, given)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trainer.accelerator=gpu", "there is no GPU here, got the accelerator 'gpu'"),
        ("trainer.accelerator=cuda", "there is no GPU here, got the accelerator 'cuda'"),
        ("trainer.accelerator=tpu", "Trainer refuses accelerator='tpu'"),
        ("trainer.accelerator=abacus", "Trainer refuses accelerator='abacus'"),
        ("trainer.accelerator=null", "accelerator must be a text"),
        ("trainer.devices=0", "devices must be a positive whole number, auto or -1"),
        ("trainer.devices=-1", "Trainer refuses devices=-1"),
        ("trainer.devices='0,1'", "Trainer refuses devices='0,1'"),
        ("trainer.devices=[0,1]", r"Trainer refuses devices=\[0, 1\]"),
        ("trainer.devices=9999", "devices must be at most .* without a GPU"),
        ("trainer.devices=true", "devices must be a positive whole number"),
        ("trainer.num_nodes=0", "num_nodes must be at least 1, got 0"),
        ("trainer.strategy=deepspeed", "Trainer refuses strategy='deepspeed': .*installed"),
        ("trainer.strategy=fsdp", "Trainer refuses strategy='fsdp': .*GPU"),
        ("trainer.strategy=nonsense", "Trainer refuses strategy='nonsense'"),
        ("trainer.precision=12", "precision must be one of 64, 32, 16"),
        ("trainer.precision=transformer-engine", "Trainer refuses precision='transformer-engine'"),
        ("trainer.max_epochs=-2", "max_epochs must be at least -1, got -2"),
        ("trainer.max_epochs=two", "max_epochs must be a whole number or null, got 'two'"),
        ("trainer.max_time=soon", "Trainer refuses max_time='soon'"),
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches must be at least 1, got 0"),
        ("trainer.gradient_clip_val=-1", "gradient_clip_val must be at least 0, got -1"),
        ("trainer.limit_val_batches=2.5", "Trainer refuses limit_val_batches=2.5"),
        ("trainer.profiler=stopwatch", "Trainer refuses profiler='stopwatch'"),
        ("trainer.enable_progress_bar=false", "Trainer refuses enable_progress_bar=False"),
        ("trainer.enable_model_summary=maybe", "enable_model_summary must be true or false"),
        ("trainer.max_epoch=3", "does not take the setting 'max_epoch'; did you mean max_epochs"),
        ("trainer.logger=true", "logger cannot be set as an argument of the Trainer, got True"),
        ("trainer.callbacks=[]", "callbacks cannot be set as an argument of the Trainer"),
        ("callbacks.bar.refresh=3", "TQDMProgressBar does not take the setting 'refresh'"),
        ("callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
         "EarlyStopping needs a value for monitor; give .callbacks.stop.monitor=…"),
        ("callbacks.bar=3", "expected a section with a _target_, got 3; change callbacks.bar"),
        ("callbacks.other._target_=lightning.pytorch.callbacks.RichProgressBar",
         "multiple progress bar callbacks .*; change trainer, or what it is built with"),
        ("logger.mlf._target_=lightning.pytorch.loggers.MLFlowLogger",
         "mlflow.* not met.*change logger.mlf"),
        ("logger.csv={_target_: lightning.pytorch.loggers.CSVLogger, save_dir: null}",
         "CSVLogger refuses save_dir=None: .*; set logger.csv.save_dir"),
    ],
)  # fmt: skip
def test_a_setting_that_lightning_refuses_is_named(
    setting: str, words: str, tmp_path: Path
) -> None:
    key = setting.partition("=")[0].partition("._target_")[0]
    with pytest.raises(SettingValueError, match=words) as caught:
        make_trainer(configured(tmp_path, setting))
    said = str(caught.value)
    assert "\n" not in said
    assert key in said or "progress bar callbacks" in said


def test_a_bug_is_not_taken_for_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("lightning.Trainer.__init__", broken)
    with pytest.raises(InstantiationException):
        make_trainer(config_for(tmp_path))


def test_a_part_that_is_null_is_left_out_and_mappings_are_plain(tmp_path: Path) -> None:
    config = configured(tmp_path, "callbacks.bar=null", "trainer.max_time={hours: 1}")
    config.trainer.enable_progress_bar = False
    assert make_trainer(config).max_epochs == 1


def test_making_a_trainer_draws_nothing_at_random(tmp_path: Path) -> None:
    """So the commands make it before they load anything, and results stay the same."""
    seed(5)
    make_trainer(config_for(tmp_path))
    after = torch.rand(())
    seed(5)
    assert torch.equal(after, torch.rand(()))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MisconfigurationException("no\n such hook."), "no such hook; change the settings of tra"),
        (RuntimeError("Early stopping conditioned on metric `x`"), "the monitor of its callback"),
        (RuntimeError("does not allow for gradient clipping"), "set trainer.precision to bf16-"),
    ],
)
def test_what_lightning_refuses_while_it_trains_is_named(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    trainer = make_trainer(config_for(tmp_path))
    monkeypatch.setattr(trainer, "fit", refuse)
    with pytest.raises(SettingValueError, match=words):
        fit(trainer, Line())
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(trainer, Line())


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
