"""``scripts/train_warmup.py``: trains the warm-up of DMoE (sec. 4.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.final_ffn import FinalFFN
from backbone.loading import EMBEDDED
from backbone.lora.record import AdapterRecord
from dmoe.experts.expert import expert_at
from dmoe.experts.peft import export_adapter
from dmoe.training.lessons import check_formats, lessons_from_questions, prompt_of
from dmoe.training.settings import typed_settings
from dmoe.training.warmup import train_warmup
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import mounted
from plumbing.settings import check_limit
from plumbing.storage.files import write_json
from qa.data.dataset import QADataset, check_disjoint


def warmup(config: DictConfig) -> dict[str, float]:
    """Train the warm-up's adapter, and write it and ``metrics.json`` into the run folder.

    Args:
        config: Composed from ``conf/train_warmup.yaml``.

    Returns:
        The mean losses in the first and in the last epoch (nats per label), and ``‖ΔW‖``.

    Raises:
        ValueError: If a setting or the data is at fault, or if the training split has a gold
            passage in common with the held-out split (``instances.held_out``).
    """
    check_complete(config)
    check_limit(config.instances.limit, "instances.limit")  # before the model is loaded
    spec, recipe, limits = typed_settings(config)
    dataset: QADataset = instantiate(config.data)
    chosen = config.instances
    check_disjoint(dataset, chosen.split, chosen.held_out)
    lessons = lessons_from_questions(dataset, chosen.split)
    ffn = FinalFFN(instantiate(config.backbone))
    with mounted("instances"):
        check_formats(chosen.formats)
    with mounted("expert"):
        spec.shapes(ffn.sizes)
    trained = train_warmup(ffn, lessons, chosen.formats, spec, recipe, limits, chosen.limit)
    folder = Path(config.paths.output_dir)
    prompt = prompt_of(chosen.formats)
    record = AdapterRecord(ffn.backbone.name, ffn.backbone.fingerprint, prompt)
    export_adapter(folder / "adapter", expert_at(trained.experts, 0), spec, ffn, record)
    metrics = {
        "train/first_loss": trained.first_loss.item(),
        "train/last_loss": trained.last_loss.item(),
        "expert_norm": trained.norm.item(),
    }
    write_json(folder / "metrics.json", metrics)
    warm = _warm(config, folder / "adapter")
    say_written(
        {folder: ["adapter", "metrics.json"]},
        [next_command(config, "build_experts", warm, ("data", "backbone"))],
    )
    return metrics


def _warm(config: DictConfig, adapter: Path) -> dict[str, Any]:
    """The settings of a command that builds experts beside the backbone with this adapter."""
    bank = {"bank.dir": adapter.with_name("bank")}
    if config.backbone.name == EMBEDDED:
        return {"backbone": "smollm2_135m_warm", "backbone.adapter": adapter, **bank}
    target = "dmoe.training.warmup.warm_backbone"
    return {"backbone._target_": target, "+backbone.adapter": adapter, **bank}
