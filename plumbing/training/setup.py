"""What both methods' trainings begin with."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig


def training_callbacks(config: DictConfig) -> list[Callback]:
    """Those of the configuration; without a logger, none that only writes to one."""
    callbacks: list[Any] = [instantiate(callback) for callback in config.callbacks.values()]
    return [c for c in callbacks if config.logger or not isinstance(c, LearningRateMonitor)]


def training_loggers(config: DictConfig) -> list[Logger] | bool:
    """Those of the configuration; False, as the Trainer wants it, if there are none."""
    return [instantiate(logger) for logger in config.logger.values()] or False
