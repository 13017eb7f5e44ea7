"""Meta-training of the hypernetwork from a composed configuration (GenPoE sec. 4.1)."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from backbone.loading import training_backbone
from backbone.model import Backbone
from genpoe.hypernet.hypernet import Hypernet
from genpoe.training.datamodule import QADataModule
from genpoe.training.module import GenPoEModule
from genpoe.training.settings import BatchingSettings, OptimSettings, section
from plumbing.cli import next_command, say_written
from plumbing.storage.files import write_json
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from plumbing.training.setup import training_callbacks, training_loggers
from qa.data.dataset import QADataset

_LIGHTNING_WORDS = ("last", "best", "hpc")


def build_module(config: DictConfig, backbone: Backbone) -> GenPoEModule:
    """The LightningModule of a configuration, beside a backbone loaded already."""
    hypernet: Hypernet = instantiate(config.hypernet).build(backbone)
    return GenPoEModule(
        backbone,
        hypernet,
        OptimSettings(**section(config, "optim")),
        max_passage_tokens=config.batching.max_passage_tokens,
        cache_dir=str(Path(config.paths.cache_dir, "frozen").expanduser())
        if config.cache_frozen
        else None,
        seed=config.seed,
    )


def train_command(config: DictConfig) -> dict[str, float]:
    """``scripts/train_hypernet.py``: `train`, which then says what to type next.

    Raises:
        ValueError: If a setting, the data or the checkpoint is at fault.
    """
    metrics = train(config)
    files = ["checkpoints/last.ckpt", "metrics.json"]
    say_written({config.paths.output_dir: files}, [evaluation_of(config)])
    return metrics


def evaluation_of(config: DictConfig) -> str | None:
    """The command line that evaluates what a run has trained; None if it has kept nothing."""
    checkpoint = Path(config.paths.output_dir, "checkpoints", "last.ckpt")
    settings = {"method": "genpoe", "ckpt_path": checkpoint, "passages": "gold"}
    if config.batching.val_split not in (None, "dev"):
        settings["split"] = config.batching.val_split
    return next_command(config, "evaluate", settings) if checkpoint.exists() else None


def train(
    config: DictConfig, backbone: Backbone | None = None, dataset: QADataset | None = None
) -> dict[str, float]:
    """Train, write ``metrics.json`` into the run directory, and return what was measured.

    Args:
        config: ``conf/train_hypernet.yaml``, composed.
        backbone: The backbone, where the caller has loaded it; default: ``config.backbone``.
        dataset: The data, likewise; default: ``config.data``.

    Raises:
        CheckpointError: If ``ckpt_path`` names no loadable checkpoint: nothing starts afresh.
        ValueError: If a setting is mistyped or out of range.
    """
    if config.ckpt_path in ("", *_LIGHTNING_WORDS):
        raise CheckpointError(
            f"ckpt_path must be a file, got {config.ckpt_path!r}: where there is none, Lightning "
            "would silently start afresh; name it, as in "
            "logs/train_hypernet/runs/…/checkpoints/last.ckpt, or leave it out"
        )
    # First: what is wrong with a setting shows before anything is loaded.
    instantiate(config.hypernet)
    OptimSettings(**section(config, "optim"))
    batching = BatchingSettings(**section(config, "batching"))
    seed_everything(config.seed, workers=True, verbose=False)
    dataset = dataset or instantiate(config.data)
    backbone = backbone or training_backbone(config)
    module = build_module(config, backbone)
    datamodule = QADataModule(dataset, backbone.tokenizer, **asdict(batching))
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=training_callbacks(config),
        logger=_loggers(config),
        plugins=[AtomicCheckpointIO()],
    )
    with warnings.catch_warnings():
        # Workers would only copy what is in memory already.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(module, datamodule=datamodule, ckpt_path=config.ckpt_path, weights_only=True)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    metrics["steps"] = trainer.global_step
    if trainer.is_global_zero:
        write_json(Path(config.paths.output_dir, "metrics.json"), metrics)
    return metrics


def _loggers(config: DictConfig) -> list[Logger] | bool:
    loggers = training_loggers(config)
    if isinstance(loggers, list):
        names = ("hypernet", "batching", "optim")
        loggers[0].log_hyperparams({name: section(config, name) for name in names})
    return loggers
