"""What both methods' trainings begin with."""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from qa.backbone import Backbone, best_dtype


def training_backbone(config: DictConfig) -> Backbone:
    """Loaded on the CPU, in the dtype that suits the device that the Trainer will move it to."""
    dtype = config.model.backbone.dtype
    on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if dtype == "auto" and on_gpu:
        dtype = str(best_dtype("cuda")).removeprefix("torch.")
    backbone: Backbone = instantiate(config.model.backbone, dtype=dtype)
    return backbone
