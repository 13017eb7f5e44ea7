"""The warm-up before experts are trained: the model learns the form of an answer (DMoE sec. 4.3).

The warm-up is trained for one epoch on instances of passages that no evaluation asks about. Its
result is one adapter, which is merged into the backbone and shared by everything that follows:
experts are trained and all methods are evaluated on top of it
(``backbone=smollm2_135m_warm backbone.adapter=DIR``).

What a warm-up adds to a weight is far smaller than the last bit of a bfloat16. If it were added to
such a weight, most of it would be rounded away. The same would happen to its product with the
input, if that were added to an output that is already rounded. So for weights of 16 bits,
`WarmLinear` keeps the warm-up beside the weights, and adds both products before it rounds.

Deviation: the paper does not say which parameters the warm-up has. Ours has those of an expert, on
the final FFN, so that it can be trained on the same precomputed states as experts.

Shapes: R rank, I inputs, O outputs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.edits import WeightEdits
from backbone.final_ffn import FinalFFN
from backbone.loading import EMBEDDED, load_backbone
from backbone.lora.record import RECORD, check_record
from backbone.lora.settings import WEIGHTS
from backbone.model import Backbone, UnsupportedBackboneError
from backbone.projections import Block, as_block
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.peft import import_adapter
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits, TrainedGroup
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Lesson
from plumbing.settings import check_limit
from plumbing.storage.files import sha256_of
from qa.prompts import warn_of_another_prompt

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
        lessons: What the adapter is trained on. Nothing that is evaluated later may be among it.
        formats: The formats of the instances, as in `dmoe.training.lessons.Lesson.instances`.
        spec: The adapter's settings.
        recipe: The training's settings. Its seed also draws the order.
        limits: The limits on memory.
        limit: The most instances to train on. None takes all of them.

    Returns:
        A group that holds the adapter as its only expert.

    Raises:
        ValueError: If there are no instances, or ``limit`` is not a positive whole number.
    """
    check_limit(limit)
    instances = [instance for lesson in lessons for instance in lesson.instances(formats)]
    random.Random(recipe.seed).shuffle(instances)
    tokenizer = ffn.backbone.tokenizer
    encoded = encode_all(tokenizer, instances[:limit], recipe.loss, recipe.max_tokens)
    return GroupedTrainer(ffn, spec, recipe, limits).train(["warm-up"], [encoded])


@torch.no_grad()
def merge_expert(ffn: FinalFFN, expert: Mapping[str, Tensor], spec: ExpertSpec) -> None:
    """Add ``alpha / rank · B A`` to the backbone's final FFN permanently.

    It is added to weights that are wider than 16 bits. It is kept beside weights of 16 bits
    (`WarmLinear`), because most of it would be rounded away there.
    """
    names = {id(weight): name for name, weight in ffn.backbone.model.named_parameters()}
    weights: dict[str, Tensor] = {}
    for target in spec.targets:
        block = as_block(ffn.projections[target])
        weight = block.module.weight
        a, b = (expert[f"{target}.lora_{x}"].to(weight.device).float() for x in "AB")
        if weight.itemsize > 2:
            new = weights.setdefault(names[id(weight)], weight.clone())
            block.part(new).add_(spec.scaling * (b @ a))
        else:
            _warm(ffn, block).add(a, spec.scaling * b, block.first)
    if weights:
        WeightEdits(ffn.backbone).write(weights)


def _warm(ffn: FinalFFN, block: Block) -> WarmLinear:
    """The `WarmLinear` of a block's linear map; it takes the map's place if it is not there yet."""
    if isinstance(block.module, WarmLinear):
        return block.module
    if not isinstance(block.module, nn.Linear):
        raise UnsupportedBackboneError(
            f"{type(block.module).__name__} ({ffn.backbone.name}) in {block.weight.dtype}: "
            "expected float32 weights to merge a warm-up into; set dtype=float32"
        )
    name = next(name for name, child in ffn.ffn.named_children() if child is block.module)
    warm = WarmLinear(block.module)
    setattr(ffn.ffn, name, warm)
    for target, part in ffn.projections.items():
        if isinstance(part, Block) and part.module is block.module:
            ffn.projections[target] = part.of(warm)
        elif part is block.module:
            ffn.projections[target] = warm
    return warm


def warm_backbone(adapter: str | Path, name: str = EMBEDDED, **settings: Any) -> Backbone:
    """Load a backbone with a warm-up's adapter merged into it, under a new fingerprint.

    If the warm-up was trained under another prompt than the present one, a warning says so.

    Args:
        adapter: The folder that ``scripts/train_warmup.py`` wrote, or any PEFT adapter of the final
            FFN.
        name: The backbone's name, as in `backbone.loading.load_backbone`.
        **settings: Further settings, as in `backbone.loading.load_backbone`.

    Raises:
        AdapterError: If the adapter cannot be used, or was trained for another backbone.
    """
    backbone = load_backbone(name, **settings)
    ffn = FinalFFN(backbone)
    expert, spec = import_adapter(adapter, ffn)
    if (Path(adapter) / RECORD).is_file():  # version 0.1 wrote none, and neither does PEFT
        prompt = check_record(Path(adapter), backbone).get("prompt")
        warn_of_another_prompt(f"the warm-up {adapter}", prompt)
    # The new identity is made of the one before merging and of the adapter's hash. It takes the
    # place of the one that `WeightEdits` gives, because banks were built under it, and because it
    # is the same on any GPU.
    weights = backbone.weights.changed(
        "beside", f"{sha256_of(Path(adapter) / WEIGHTS)} {spec.scaling}"
    )
    merge_expert(ffn, expert, spec)
    backbone.weights = weights
    return backbone


class WarmLinear(nn.Linear):
    """A linear map that computes ``W x + B A x`` and rounds only the sum.

    It keeps the weights of the map that it replaces, so that they are found under their names. The
    factors are float32 buffers, so they are copied and moved together with the module.

    Args:
        linear: The map that this one replaces, in a dtype of 16 bits.
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

    def add(self, a_RI: Tensor, b_OR: Tensor, first: int = 0) -> None:
        """Add the product ``B A`` to those that already act, from the output ``first`` on."""
        whole_OR = b_OR.new_zeros(self.out_features, b_OR.shape[1])
        whole_OR[first : first + len(b_OR)] = b_OR
        self.warmup_A = torch.cat([self.warmup_A, a_RI])
        self.warmup_B = torch.cat([self.warmup_B, whole_OR], 1)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., I]`` to ``[..., O]``, in the dtype of the weights."""
        x = input.flatten(0, -2)
        term = x.to(self.warmup_A.dtype) @ self.warmup_A.mT @ self.warmup_B.mT
        # `super().forward(input) + term` would round twice; addmm sums in float32, then rounds.
        out = torch.addmm(term.to(x.dtype), x, self.weight.mT)
        if self.bias is not None:  # added last: within the term it would round the term away
            out = out + self.bias
        return out.unflatten(0, input.shape[:-1])
