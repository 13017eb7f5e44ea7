"""The warm-up before experts are trained: the model learns the form of an answer (DMoE sec. 4.3).

One epoch over instances of passages that no evaluation asks about. The result is one adapter,
shared by everything that follows, which is merged into the backbone: experts are trained, and all
methods evaluated, on top of it (``model=smollm2_135m_warm model.backbone.adapter=DIR``).

Deviation: the paper does not say where the warm-up's parameters are. Ours are an expert's, on the
final FFN, so that it can be trained on the states that experts are trained on.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from dmoe.expert import ExpertSpec, expert_at
from dmoe.final_ffn import FinalFFN
from dmoe.grouped import GroupedTrainer, Limits, TrainedGroup
from dmoe.instances import Lesson, encode_all, lessons_from_questions
from dmoe.peft_io import WEIGHTS, export_adapter, import_adapter
from dmoe.recipe import Recipe
from dmoe.settings import typed_settings
from dmoe.warm_linear import WarmLinear
from qa.backbone import EMBEDDED, Backbone, load_backbone
from qa.cli import check_complete
from qa.dataset import QADataset, check_disjoint
from retrieval.files import sha256_of, write_json
from retrieval.settings import check_limit

log = logging.getLogger(__name__)


def train_warmup(
    ffn: FinalFFN,
    lessons: Iterable[Lesson],
    formats: Sequence[str],
    spec: ExpertSpec,
    recipe: Recipe,
    limits: Limits,
    limit: int | None = None,
) -> TrainedGroup:
    """Train the shared adapter on the instances of many passages, in random order.

    Args:
        ffn: The final FFN of the backbone.
        lessons: What it is trained on; nothing that is evaluated later.
        formats: Of the instances; see `dmoe.instances.Lesson.instances`.
        spec: The adapter's settings.
        recipe: The training's; its seed also draws the order.
        limits: The memory's.
        limit: At most so many instances; None: all.

    Returns:
        A group of one.

    Raises:
        ValueError: If there are no instances, or ``limit`` is no positive whole number.
    """
    check_limit(limit, "instances.limit")
    instances = [instance for lesson in lessons for instance in lesson.instances(formats)]
    random.Random(recipe.seed).shuffle(instances)
    tokenizer = ffn.backbone.tokenizer
    encoded = encode_all(tokenizer, instances[:limit], recipe.loss, recipe.max_tokens)
    return GroupedTrainer(ffn, spec, recipe, limits).train(["warm-up"], [encoded])


def warmup(config: DictConfig) -> dict[str, float]:
    """``scripts/train_warmup.py``: train the adapter, write it and ``metrics.json``.

    Args:
        config: Composed from ``conf/train_warmup.yaml``.

    Returns:
        The mean losses in the first and in the last epoch (nats a label), and ``‖ΔW‖``.

    Raises:
        ValueError: If a setting or the data is at fault; also if a gold passage of the split that
            it is trained on is one of ``held_out``'s.
    """
    check_complete(config)
    check_limit(config.instances.limit, "instances.limit")  # before the model
    spec, recipe, limits = typed_settings(config)
    dataset: QADataset = instantiate(config.data)
    chosen = config.instances
    check_disjoint(dataset, chosen.split, chosen.held_out)
    lessons = lessons_from_questions(dataset, chosen.split)
    ffn = FinalFFN(instantiate(config.model.backbone))
    trained = train_warmup(ffn, lessons, chosen.formats, spec, recipe, limits, chosen.limit)
    folder = Path(config.paths.output_dir)
    export_adapter(folder / "adapter", expert_at(trained.experts, 0), spec, ffn)
    metrics = {
        "train/first_loss": trained.first_loss.item(),
        "train/last_loss": trained.last_loss.item(),
        "expert_norm": trained.norm.item(),
    }
    write_json(folder / "metrics.json", metrics)
    log.info("the adapter is in %s", folder / "adapter")
    return metrics


@torch.no_grad()
def merge_expert(ffn: FinalFFN, expert: Mapping[str, Tensor], spec: ExpertSpec) -> None:
    """Add ``alpha / rank · B A`` to the backbone for good.

    It goes into weights of float32; in those of 16 bits most of it would be lost, and it stands
    beside them instead (`WarmLinear`).
    """
    for target in spec.targets:
        linear = ffn.projections[target]
        a, b = (expert[f"{target}.lora_{x}"].to(linear.weight.device).float() for x in "AB")
        if linear.weight.itemsize > 2:
            linear.weight.add_(spec.scaling * (b @ a))
        else:
            warm = linear if isinstance(linear, WarmLinear) else _replace(ffn, target)
            warm.add(a, spec.scaling * b)


def _replace(ffn: FinalFFN, target: str) -> WarmLinear:
    """Put a `WarmLinear` into the place of a projection."""
    linear = ffn.projections[target]
    name = next(name for name, child in ffn.ffn.named_children() if child is linear)
    warm = ffn.projections[target] = WarmLinear(linear)
    setattr(ffn.ffn, name, warm)
    return warm


def warm_backbone(adapter: str | Path, name: str = EMBEDDED, **settings: Any) -> Backbone:
    """A backbone with a warm-up's adapter merged into it, and a fingerprint of its own.

    Args:
        adapter: What ``scripts/train_warmup.py`` wrote, or any PEFT adapter of the final FFN.
        name: See `qa.backbone.load_backbone`.
        **settings: The same.

    Raises:
        AdapterError: If the adapter cannot be used.
    """
    backbone = load_backbone(name, **settings)
    ffn = FinalFFN(backbone)
    expert, spec = import_adapter(adapter, ffn)
    # Of the weights before: a fingerprint samples them, and might not see so small a change.
    both = f"beside {backbone.fingerprint} {sha256_of(Path(adapter) / WEIGHTS)} {spec.scaling}"
    merge_expert(ffn, expert, spec)
    backbone.fingerprint = hashlib.sha256(both.encode()).hexdigest()
    return backbone
