"""The warm-up before experts are trained: the model learns the form of an answer (DMoE sec. 4.3).

One epoch over instances of passages that no evaluation asks about. The result is one adapter,
shared by everything that follows, which is merged into the backbone: experts are trained, and all
methods evaluated, on top of it (``backbone=smollm2_135m_warm backbone.adapter=DIR``).

What a warm-up adds to a weight is far less than the last bit of a bfloat16: merged, most of it
would be rounded away, and so would its product, if it were added to an output that is rounded
already. Where weights are that narrow, `WarmLinear` keeps the warm-up beside them, and sums both
products before they are rounded.

Deviation: the paper does not say where the warm-up's parameters are. Ours are an expert's, on the
final FFN, so that it can be trained on the states that experts are trained on.

Shapes: R rank, I inputs, O outputs.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.final_ffn import FinalFFN
from backbone.loading import EMBEDDED, load_backbone
from backbone.lora.settings import WEIGHTS
from backbone.model import Backbone
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.peft import import_adapter
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits, TrainedGroup
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Lesson
from plumbing.settings import check_limit
from plumbing.storage.files import sha256_of

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
        formats: Of the instances; see `dmoe.training.lessons.Lesson.instances`.
        spec: The adapter's settings.
        recipe: The training's; its seed also draws the order.
        limits: The memory's.
        limit: At most so many instances; None: all.

    Returns:
        A group of one.

    Raises:
        ValueError: If there are no instances, or ``limit`` is no positive whole number.
    """
    check_limit(limit)
    instances = [instance for lesson in lessons for instance in lesson.instances(formats)]
    random.Random(recipe.seed).shuffle(instances)
    tokenizer = ffn.backbone.tokenizer
    encoded = encode_all(tokenizer, instances[:limit], recipe.loss, recipe.max_tokens)
    return GroupedTrainer(ffn, spec, recipe, limits).train(["warm-up"], [encoded])


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
        name: See `backbone.loading.load_backbone`.
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


class WarmLinear(nn.Linear):
    """``W x + B A x``, summed before it is rounded.

    It keeps the linear map's own weights, so that a fingerprint finds them as they were. The
    factors are buffers in float32, which follow a copy and a move.

    Args:
        linear: The map whose place this takes, in a dtype of 16 bits.
    """

    warmup_A: Tensor
    warmup_B: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        for name, shape in {
            "warmup_A": (0, self.in_features),
            "warmup_B": (self.out_features, 0),
        }.items():
            self.register_buffer(name, torch.zeros(shape, device=linear.weight.device))
        self.train(linear.training)

    def add(self, a_RI: Tensor, b_OR: Tensor) -> None:
        """Let ``B A`` act as well, beside what does already."""
        self.warmup_A = torch.cat([self.warmup_A, a_RI])
        self.warmup_B = torch.cat([self.warmup_B, b_OR], 1)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``, in the dtype of the weights."""
        x = input.flatten(0, -2)
        term = x.to(self.warmup_A.dtype) @ self.warmup_A.mT @ self.warmup_B.mT
        # Not `super().forward(input) + term`: addmm sums in float32 what it rounds.
        out = torch.addmm(term.to(x.dtype), x, self.weight.mT)
        if self.bias is not None:  # not within the term, which it would round away
            out = out + self.bias
        return out.unflatten(0, input.shape[:-1])
