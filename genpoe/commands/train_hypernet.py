"""Meta-training of the hypernetwork from a composed configuration (GenPoE sec. 4.1)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from backbone.loading import training_backbone
from backbone.model import Backbone
from genpoe.commands.plan_hypernet import plan_training
from genpoe.hypernet.hypernet import Hypernet, HypernetSettings
from genpoe.training.datamodule import QADataModule
from genpoe.training.module import GenPoEModule
from genpoe.training.settings import BatchingSettings, DistillationSettings, OptimSettings
from plumbing.cli import next_command, say_written
from plumbing.mounts import mounted
from plumbing.settings import read_section
from plumbing.training.setup import (
    check_ckpt_path,
    fit,
    make_trainer,
    seed,
    write_metrics,
)
from qa.data.dataset import QADataset


def build_module(config: DictConfig, backbone: Backbone) -> GenPoEModule:
    """Make the LightningModule of a configuration for a backbone that is loaded already."""
    cache_dir = Path(config.paths.cache_dir, "frozen").expanduser()
    optim = read_section(config, "optim", OptimSettings)
    settings: HypernetSettings = instantiate(config.hypernet)
    with mounted("hypernet"):
        hypernet = settings.build(backbone)
        _check_cache(config.cache_frozen, hypernet)
        _check_others(config.other_passages, config.wrong_passages)
        return GenPoEModule(
            backbone,
            hypernet,
            optim,
            max_passage_tokens=config.batching.max_passage_tokens,
            cache_dir=str(cache_dir) if config.cache_frozen else None,
            answers_only=config.cache_frozen == "answers",
            other_passages=config.other_passages,
            wrong_passages=config.wrong_passages,
            seed=config.seed,
            distillation=read_section(config, "distillation", DistillationSettings),
            teacher_dir=str(cache_dir),
        )


def _check_cache(cache_frozen: Any, hypernet: Hypernet) -> None:
    last = hypernet.backbone.num_layers - 1
    if cache_frozen not in (True, False, "answers"):
        problem = f"cache_frozen must be true, false or answers, got {cache_frozen!r}"
    elif cache_frozen == "answers" and hypernet.settings.layer != last:
        problem = (
            f"cache_frozen=answers is for experts beside the last FFN, layer {last}, got layer "
            f"{hypernet.settings.layer}"
        )
    elif cache_frozen is True and hypernet.looks is not None:
        problem = "this hypernetwork also looks at earlier states, which cache_frozen=true lacks"
    else:
        return
    raise ValueError(f"{problem}; set cache_frozen")


def _check_others(other: Any, wrong: Any) -> None:
    if not isinstance(other, int) or other < 0:
        raise ValueError(
            f"other_passages must be a whole number of at least 0, got {other!r}; set "
            "other_passages"
        )
    if not isinstance(wrong, int | float) or not 0 <= wrong < 1:
        raise ValueError(
            f"wrong_passages must be at least 0 and less than 1, got {wrong!r}; set wrong_passages"
        )


def train_command(config: DictConfig) -> dict[str, float]:
    """``scripts/train_hypernet.py``: `train`, which then says what to type next.

    With ``dry_run=true`` it only plans the training.

    Raises:
        PlanError: With ``dry_run=true``, if the training cannot fit.
        ValueError: If a setting, the data or the checkpoint is at fault.
    """
    if config.dry_run:
        return plan_training(config, build_module)
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
    if not checkpoint.exists():
        return None
    return next_command(config, "evaluate", settings, ("data", "backbone"))


def train(
    config: DictConfig, backbone: Backbone | None = None, dataset: QADataset | None = None
) -> dict[str, float]:
    """Train, write ``metrics.json`` into the run directory, and return what was measured.

    Args:
        config: ``conf/train_hypernet.yaml``, composed.
        backbone: The backbone, if the caller has loaded it; default: ``config.backbone``.
        dataset: The data set, if the caller has loaded it; default: ``config.data``.

    Raises:
        CheckpointError: If ``ckpt_path`` names no checkpoint that can be loaded. The training does
            not start afresh then.
        ValueError: If a setting has another type or is out of range.
    """
    check_ckpt_path(config.ckpt_path)
    # First: what is wrong with a setting shows before anything is loaded.
    instantiate(config.hypernet)
    read_section(config, "optim", OptimSettings)
    read_section(config, "distillation", DistillationSettings)
    batching = read_section(config, "batching", BatchingSettings)
    if batching.negatives_path is not None and not (config.other_passages or config.wrong_passages):
        raise ValueError(
            "batching.negatives_path gives passages of others, and none is trained with; set "
            "other_passages or wrong_passages, or batching.negatives_path=null"
        )
    trainer = make_trainer(config)
    seed(config.seed)
    dataset = dataset or instantiate(config.data)
    backbone = backbone or training_backbone(config)
    module = build_module(config, backbone)
    datamodule = QADataModule(dataset, backbone.tokenizer, **asdict(batching))
    _log_settings(trainer, config)
    metrics = fit(trainer, module, datamodule, config.ckpt_path)
    write_metrics(trainer, config.paths.output_dir, metrics)
    return metrics


def _log_settings(trainer: Trainer, config: DictConfig) -> None:
    if trainer.loggers:
        names = ("hypernet", "batching", "optim")
        settings: Any = OmegaConf.to_container(config, resolve=True)
        trainer.loggers[0].log_hyperparams({name: settings[name] for name in names})
