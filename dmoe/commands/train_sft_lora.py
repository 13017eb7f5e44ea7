"""``scripts/train_sft_lora.py``: trains one adapter on the whole corpus (DMoE sec. 4.2)."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from backbone.loading import training_backbone
from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.lora.settings import AdapterError
from dmoe.baselines.sft_lora.module import SFTModule
from dmoe.commands.build_experts import open_lessons
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import encode_all
from dmoe.training.lessons import check_formats, prompt_of
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import mounted
from plumbing.settings import read_section
from plumbing.stopwatch import Stopwatch
from plumbing.training.setup import (
    check_ckpt_path,
    fit,
    make_trainer,
    seed,
    write_metrics,
)

log = logging.getLogger(__name__)

FOLDER = "adapter"  # in the run folder: what adapter_dir names


def train_sft_lora(config: DictConfig) -> dict[str, float]:
    """Train the adapter, and write its folder and ``metrics.json`` into the run folder.

    Args:
        config: Composed from ``conf/train_sft_lora.yaml``.

    Returns:
        ``train/loss``, the mean over the batches of the last epoch (nats per label), ``steps``,
        ``instances``, ``parameters`` and ``seconds``. ``train/loss`` is left out if the checkpoint
        was already at the end of the training.

    Raises:
        ValueError: If a setting, the data or the checkpoint is at fault.
        UnsupportedBackboneError: If the backbone lacks some of ``lora.targets``.
    """
    check_complete(config)
    check_ckpt_path(config.ckpt_path)
    if (folder := Path(config.paths.output_dir, FOLDER)).exists():
        raise AdapterError(f"{folder} exists; choose another hydra.run.dir")
    watch = Stopwatch()
    trainer = make_trainer(config)
    module = _module(config)
    measured = fit(trainer, module, ckpt_path=config.ckpt_path)
    means = ((name, value) for name, value in measured.items() if name.endswith("_epoch"))
    metrics = {
        **{name.removesuffix("_epoch"): value for name, value in means},
        "steps": measured["steps"],
        "instances": len(module.instances),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "seconds": watch.seconds,
    }
    if trainer.is_global_zero:
        module.adapter.save(folder, prompt_of(config.instances.formats))
    write_metrics(trainer, config.paths.output_dir, metrics)
    behind_passages = list(config.instances.formats) == ["qa_with_passage"]
    using = {"method": "rag" if behind_passages else "sft_lora", "adapter_dir": folder}
    say_written(
        {folder.parent: [FOLDER, "metrics.json", "checkpoints/last.ckpt"]},
        [next_command(config, "evaluate", using, ("data", "backbone"))],
    )
    return metrics


def _module(config: DictConfig) -> SFTModule:
    """Make the module that trains, with the adapter and the instances."""
    settings = read_section(config, "lora", LoraSettings)
    recipe = read_section(config, "recipe", Recipe)
    with mounted("recipe"):
        recipe.check_loud("adapters over all passages")
    with mounted("instances"):
        check_formats(config.instances.formats)
    formats = list(config.instances.formats)
    lessons = open_lessons(config)  # opened before the model, so that errors in it show at once
    backbone = training_backbone(config)
    instances = [
        encoded
        for lesson in lessons()
        for encoded in encode_all(
            backbone.tokenizer, lesson.instances(formats), recipe.loss, recipe.max_tokens
        )
    ]
    seed(config.seed)
    return SFTModule(backbone, LoraAdapter.new(backbone, settings), instances, recipe)
