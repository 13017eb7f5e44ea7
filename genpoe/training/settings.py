"""The types of the settings in ``conf/train_hypernet.yaml``: a mistyped value is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plumbing.settings import check_types


@dataclass
class ModelSettings:
    """``model``: see `genpoe.training.module.GenPoEModule`."""

    backbone: dict[str, Any] = field(default_factory=dict)
    rank: int = 1
    layer: int = 0
    hidden_width: int = 1
    embedding_scaling: str = "whiten"
    initialization: str = "copy"
    noise: float = 0.0
    cache_frozen: bool = False


@dataclass
class BatchingSettings:
    """``batching``: see `genpoe.training.datamodule.QADataModule`."""

    passages_per_batch: int = 16
    questions_per_passage: int = 6
    max_passage_tokens: int = 512
    max_prompt_tokens: int = 256
    rag_fraction: float = 0.0
    train_split: str = "train"
    val_split: str | None = None
    train_limit: int | None = None
    val_limit: int | None = None
    drop_overlap: bool = False
    num_workers: int = 0
    seed: int = 0


@dataclass
class OptimSettings:
    """``optim``: see `genpoe.training.module.GenPoEModule`."""

    lr: float = 1e-4
    lr_min: float = 1e-6
    warmup_steps: int = 0
    common_lr_scale: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)


_TYPES = {"model": ModelSettings, "batching": BatchingSettings, "optim": OptimSettings}


def check_sections(config: DictConfig) -> None:
    """Check the values of a training configuration against these types.

    Raises:
        ValueError: Naming the key, the value and the type that was expected; see
            `plumbing.settings.check_types`.
    """
    for section, schema in _TYPES.items():
        values: Any = OmegaConf.to_container(config[section], resolve=True)
        check_types(schema(**values), section)
