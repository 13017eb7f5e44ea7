"""``scripts/train_sft_lora.py``: one adapter over the merged corpus (DMoE sec. 4.2)."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from backbone.loading import training_backbone
from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.lora.settings import AdapterError
from dmoe.baselines.sft_lora.module import SFTModule
from dmoe.commands.build_experts import open_lessons
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import encode_all
from dmoe.training.lessons import check_formats
from plumbing.cli import check_complete, next_command, say_written
from plumbing.storage.files import write_json
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from plumbing.training.setup import training_callbacks, training_loggers

log = logging.getLogger(__name__)

FOLDER = "adapter"  # in the run folder: what adapter_dir names
_LIGHTNING_WORDS = ("last", "best", "hpc")


def train_sft_lora(config: DictConfig) -> dict[str, float]:
    """Train the adapter, write its folder and ``metrics.json`` into the run folder.

    Args:
        config: Composed from ``conf/train_sft_lora.yaml``.

    Returns:
        ``train/loss``, the mean over what was trained on in the last epoch (nats a label; none
        where the checkpoint was the end), ``steps``, ``instances``, ``parameters`` and ``seconds``.

    Raises:
        ValueError: If a setting, the data or the checkpoint is at fault.
        UnsupportedBackboneError: If the backbone has not all of ``lora.targets``.
    """
    check_complete(config)
    if config.ckpt_path in _LIGHTNING_WORDS:
        raise CheckpointError(
            f"ckpt_path must be a file, got {config.ckpt_path!r}: where there is none, Lightning "
            "would silently start afresh; name it, as in "
            "logs/train_sft_lora/runs/…/checkpoints/last.ckpt"
        )
    if (folder := Path(config.paths.output_dir, FOLDER)).exists():
        raise AdapterError(f"{folder} exists; choose another hydra.run.dir")
    start = time.perf_counter()
    module = _module(config)
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=training_callbacks(config),
        logger=training_loggers(config),
        plugins=[AtomicCheckpointIO()],
    )
    with warnings.catch_warnings():
        # Workers would only copy what is in memory already.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(module, ckpt_path=config.ckpt_path, weights_only=True)
    means = ((n, v) for n, v in trainer.callback_metrics.items() if n.endswith("_epoch"))
    metrics = {
        **{name.removesuffix("_epoch"): value.item() for name, value in means},
        "steps": trainer.global_step,
        "instances": len(module.instances),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "seconds": time.perf_counter() - start,
    }
    if trainer.is_global_zero:
        module.adapter.save(folder)
        write_json(Path(config.paths.output_dir, "metrics.json"), metrics)
    using = {"method": "sft_lora", "adapter_dir": folder}
    say_written(
        {folder.parent: [FOLDER, "metrics.json", "checkpoints/last.ckpt"]},
        [next_command(config, "evaluate", using)],
    )
    return metrics


def _module(config: DictConfig) -> SFTModule:
    """What is trained, and on what."""

    def values(key: str) -> Any:
        return OmegaConf.to_container(config[key], resolve=True)

    settings, recipe = LoraSettings(**values("lora")), Recipe(**values("recipe"))
    check_formats(config.instances.formats)
    formats = list(config.instances.formats)
    lessons = open_lessons(config)  # before the model: what is wrong with the data shows at once
    backbone = training_backbone(config)
    instances = [
        encoded
        for lesson in lessons()
        for encoded in encode_all(
            backbone.tokenizer, lesson.instances(formats), recipe.loss, recipe.max_tokens
        )
    ]
    seed_everything(config.seed, workers=True, verbose=False)
    return SFTModule(backbone, LoraAdapter.new(backbone, settings), instances, recipe)
